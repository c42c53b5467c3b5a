"""One job for each tick, however many workers look and whatever is done to a schedule meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest

from jobq import InvalidOption, Missed, Schedule, ScheduleNotFound, ScheduleStatus, State
from jobq.failure_modes.shop import TASK, Shop
from jobq.failure_modes.transactions import Parties
from jobq.protocol.limits import Limit, line_of
from jobq.protocol.values import JobRequest
from jobq.store import schedules as steps
from jobq.store.step import Step

T = TypeVar("T")
REQUEST = JobRequest(TASK, "{}", "default", 0, 5, None, 0.0)
# Half an hour from any tick of the real clock.
EVERY_HOUR = f"{(datetime.now(UTC).minute + 30) % 60} * * * *"
HOURLY = Schedule("hourly", EVERY_HOUR, REQUEST)


def run(shop: Shop, step: Step[T]) -> T:
    return shop.database.run(step)


def declare(shop: Shop, *schedules: Schedule) -> None:
    run(shop, steps.declare(shop.database.store.portable, schedules))


def look(shop: Shop) -> float | None:
    return run(shop, steps.make_due(shop.database.store))


def status(shop: Shop, name: str = "hourly") -> ScheduleStatus:
    listed = run(shop, steps.all_schedules(shop.database.store.portable))
    return next(each for each in listed if each.schedule.name == name)


def go_back(shop: Shop, hours: float, name: str = "hourly") -> None:
    """The next tick was so much earlier: as if nobody had looked for so long."""
    by = str(round(hours * 3_600_000)) if shop.is_sqlite else f"interval '{hours} hours'"
    shop.sql(f"UPDATE jobq.schedules SET next_tick_at = next_tick_at - {by} WHERE name = '{name}'")


def ticks(shop: Shop) -> int:
    return len(shop.sql("SELECT * FROM jobq.ticks"))


def waiting(shop: Shop) -> int:
    return run(shop, shop.database.store.counts())[State.READY]


def test_a_tick_makes_one_job_when_it_is_due(shop: Shop) -> None:
    declare(shop, Schedule("hourly", EVERY_HOUR, REQUEST, missed=Missed.ONE))
    until_s = look(shop)
    assert waiting(shop) == 0
    assert until_s is not None
    assert 0 < until_s <= 3600
    coming = status(shop).next_tick_at

    go_back(shop, 1)
    look(shop)
    look(shop)

    assert waiting(shop) == ticks(shop) == 1
    assert status(shop).next_tick_at == coming
    assert len(shop.claim("a", 10)) == 1


def test_a_tick_that_has_its_job_gets_no_other_when_the_clock_goes_back(shop: Shop) -> None:
    declare(shop, Schedule("hourly", EVERY_HOUR, REQUEST, missed=Missed.ALL))
    go_back(shop, 3)
    look(shop)
    assert waiting(shop) == 3

    go_back(shop, 4)
    look(shop)

    assert waiting(shop) == ticks(shop) == 4


def test_what_was_missed_is_left_out_by_default(shop: Shop) -> None:
    declare(shop, Schedule("yearly", "0 0 1 1 *", REQUEST))
    go_back(shop, 24 * 365.25 * 3, "yearly")
    look(shop)

    assert waiting(shop) == 0
    at = status(shop, "yearly").next_tick_at
    assert at is not None
    assert (at.month, at.day, at.hour) == (1, 1, 0)


def test_many_missed_ticks_are_made_over_several_looks(shop: Shop) -> None:
    declare(shop, Schedule("hourly", "* * * * *", REQUEST, missed=Missed.ALL))
    go_back(shop, 150 / 60)

    assert look(shop) == 0.0
    assert waiting(shop) == steps.TICKS_PER_TURN
    look(shop)
    assert 150 <= waiting(shop) <= 151


def test_a_paused_schedule_makes_no_jobs_and_goes_on_from_its_resumption(shop: Shop) -> None:
    declare(shop, Schedule("hourly", EVERY_HOUR, REQUEST, missed=Missed.ALL))
    portable = shop.database.store.portable
    run(shop, steps.pause(portable, "hourly"))
    go_back(shop, 5)

    assert look(shop) is None
    assert waiting(shop) == 0
    assert status(shop).paused_at is not None

    run(shop, steps.resume(portable, "hourly"))
    look(shop)
    assert waiting(shop) == 0
    assert status(shop).paused_at is None


def test_an_edit_holds_until_the_code_changes(shop: Shop) -> None:
    declare(shop, HOURLY)
    portable = shop.database.store.portable
    run(shop, steps.edit(portable, "hourly", cron="5 * * * *"))
    next_tick_at = status(shop).next_tick_at
    assert next_tick_at is not None
    assert next_tick_at.minute == 5

    declare(shop, HOURLY)
    assert status(shop).schedule.cron == "5 * * * *"

    declare(shop, Schedule("hourly", "7 * * * *", REQUEST))
    assert status(shop).schedule.cron == "7 * * * *"


def test_a_declaration_that_is_the_same_moves_no_tick(shop: Shop) -> None:
    declare(shop, HOURLY)
    go_back(shop, 1)
    before = status(shop).next_tick_at

    declare(shop, HOURLY)

    assert status(shop).next_tick_at == before


def test_an_edit_that_means_nothing_changes_nothing(shop: Shop) -> None:
    declare(shop, HOURLY)
    with pytest.raises(InvalidOption, match="not a cron expression"):
        run(shop, steps.edit(shop.database.store.portable, "hourly", cron="61 * * * *"))

    assert status(shop).schedule == HOURLY


def test_run_now_makes_a_job_beside_the_ticks(shop: Shop) -> None:
    declare(shop, HOURLY)
    before = status(shop).next_tick_at

    run(shop, steps.run_now(shop.database.store, "hourly"))

    assert (waiting(shop), ticks(shop)) == (1, 0)
    assert status(shop).next_tick_at == before


def test_a_deleted_schedule_is_gone_with_its_ticks(shop: Shop) -> None:
    declare(shop, Schedule("hourly", EVERY_HOUR, REQUEST, missed=Missed.ONE))
    go_back(shop, 1)
    look(shop)
    portable = shop.database.store.portable

    run(shop, steps.remove(portable, "hourly"))

    assert ticks(shop) == 0
    assert look(shop) is None
    assert waiting(shop) == 1
    for step in (steps.pause, steps.resume, steps.remove):
        with pytest.raises(ScheduleNotFound, match="'hourly'"):
            run(shop, step(portable, "hourly"))


def test_a_schedule_that_is_not_understood_stops_alone(shop: Shop) -> None:
    declare(shop, HOURLY, Schedule("other", EVERY_HOUR, REQUEST, missed=Missed.ONE))
    shop.sql("UPDATE jobq.schedules SET cron = 'nonsense' WHERE name = 'hourly'")
    go_back(shop, 1, "hourly")
    go_back(shop, 1, "other")

    look(shop)

    assert waiting(shop) == 1
    assert shop.sql("SELECT next_tick_at FROM jobq.schedules WHERE name = 'hourly'")[0][0] is None


def test_the_jobs_of_a_schedule_keep_to_their_limits(shop: Shop) -> None:
    line = line_of("default", [Limit("mail", concurrency=1)], {})
    request = REQUEST._replace(line=line)
    declare(shop, Schedule("hourly", EVERY_HOUR, request, missed=Missed.ONE))
    go_back(shop, 1)

    look(shop)

    assert run(shop, shop.database.store.counts())[State.THROTTLED] == 1


def test_times_are_those_of_the_time_zone(shop: Shop) -> None:
    declare(shop, Schedule("hourly", "30 4 * * *", REQUEST, "Asia/Kathmandu"))
    next_tick_at = status(shop).next_tick_at

    assert isinstance(next_tick_at, datetime)
    assert next_tick_at.utcoffset() is not None
    moved = (
        next_tick_at + timedelta(hours=5, minutes=45) - (next_tick_at.utcoffset() or timedelta())
    )
    assert (moved.hour, moved.minute) == (4, 30)


def test_two_that_look_at_once_make_one_job(postgres_shop: Shop, parties: Parties) -> None:
    declare(postgres_shop, Schedule("hourly", EVERY_HOUR, REQUEST, missed=Missed.ALL))
    go_back(postgres_shop, 2)
    one, other = parties.open(), parties.open()

    one.run(steps.make_due(postgres_shop.database.store))
    other.run(steps.make_due(postgres_shop.database.store))
    one.commit()
    other.commit()
    look(postgres_shop)

    assert waiting(postgres_shop) == ticks(postgres_shop) == 2


def test_one_that_dies_with_the_jobs_made_leaves_them_to_the_next(
    postgres_shop: Shop, parties: Parties
) -> None:
    declare(postgres_shop, Schedule("hourly", EVERY_HOUR, REQUEST, missed=Missed.ALL))
    go_back(postgres_shop, 2)
    one = parties.open()
    one.run(steps.make_due(postgres_shop.database.store))
    one.rollback()
    assert waiting(postgres_shop) == 0

    look(postgres_shop)

    assert waiting(postgres_shop) == ticks(postgres_shop) == 2


def test_two_workers_that_start_declare_once(postgres_shop: Shop, parties: Parties) -> None:
    portable = postgres_shop.database.store.portable
    one, other = parties.open(), parties.open()
    one.run(steps.declare(portable, [HOURLY]))
    second = other.start(steps.declare(portable, [HOURLY]))
    parties.wait_until_blocked(other.pid)
    one.commit()
    second.result(30)
    other.commit()

    assert status(postgres_shop).schedule == HOURLY


def test_a_pause_beside_a_look_is_before_it_or_after_it(
    postgres_shop: Shop, parties: Parties
) -> None:
    declare(postgres_shop, Schedule("hourly", EVERY_HOUR, REQUEST, missed=Missed.ALL))
    go_back(postgres_shop, 1)
    pausing = parties.open()
    pausing.run(steps.pause(postgres_shop.database.store.portable, "hourly"))

    look(postgres_shop)  # skips the row that is held
    pausing.commit()
    look(postgres_shop)

    assert waiting(postgres_shop) == 0

"""Which ticks of a schedule are due, and when the next one is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobq import InvalidOption
from jobq.protocol.schedule import Missed, Schedule, ticks_due
from jobq.protocol.values import JobRequest

REQUEST = JobRequest("report", "{}", "default", 0, 5, None, 0.0)
BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def schedule(cron: str, timezone: str = "UTC", missed: Missed = Missed.SKIP) -> Schedule:
    return Schedule("report", cron, REQUEST, timezone, missed)


def local(cron: str, after: datetime, count: int) -> list[str]:
    ticks = schedule(cron, "Europe/Berlin").ticks_after(after)
    return [f"{tick.astimezone(BERLIN):%d %H:%M %z}" for tick in islice(ticks, count)]


def test_a_time_that_summer_time_leaves_out_comes_when_the_gap_ends() -> None:
    evening = datetime(2026, 3, 28, 20, tzinfo=BERLIN)

    assert local("30 2 * * *", evening, 2) == ["29 03:00 +0200", "30 02:30 +0200"]


def test_a_time_that_the_clock_shows_twice_comes_once() -> None:
    evening = datetime(2026, 10, 24, 20, tzinfo=BERLIN)

    assert local("30 2 * * *", evening, 2) == ["25 02:30 +0200", "26 02:30 +0100"]


def test_intervals_go_by_elapsed_time() -> None:
    night = datetime(2026, 10, 25, 1, 45, tzinfo=BERLIN)

    assert local("*/30 * * * *", night, 5) == [
        "25 02:00 +0200",
        "25 02:30 +0200",
        "25 02:00 +0100",
        "25 02:30 +0100",
        "25 03:00 +0100",
    ]


@pytest.mark.parametrize(
    ("cron", "timezone", "cause"),
    [
        ("61 * * * *", "UTC", "is not a cron expression"),
        ("whenever", "UTC", "is not a cron expression"),
        ("0 3 * * *", "Europe/Bielefeld", "there is no time zone 'Europe/Bielefeld'"),
        ("0 3 * * *", "../etc/passwd", "there is no time zone"),
    ],
)
def test_what_means_nothing_is_refused(cron: str, timezone: str, cause: str) -> None:
    with pytest.raises(InvalidOption, match=cause):
        schedule(cron, timezone)


def test_a_job_with_a_time_of_its_own_is_refused() -> None:
    with pytest.raises(InvalidOption, match="the schedule says when"):
        Schedule("report", "* * * * *", REQUEST._replace(delay_s=5.0))


def hours(*given: int) -> list[datetime]:
    return [NOON.replace(hour=hour) for hour in given]


def test_a_tick_that_is_seen_in_time_is_due_whatever_the_policy() -> None:
    for missed in Missed:
        ticks = ticks_due(
            schedule("0 * * * *", missed=missed), NOON, NOON + timedelta(seconds=59), 10
        )
        assert (ticks.due, ticks.next_tick_at) == (hours(12), hours(13)[0])


@pytest.mark.parametrize(
    ("missed", "due"),
    [(Missed.SKIP, []), (Missed.ONE, hours(12)), (Missed.ALL, hours(9, 10, 11, 12))],
)
def test_what_becomes_of_missed_ticks(missed: Missed, due: list[datetime]) -> None:
    ticks = ticks_due(
        schedule("0 * * * *", missed=missed), hours(9)[0], NOON + timedelta(minutes=30), 10
    )

    assert (ticks.due, ticks.next_tick_at) == (due, hours(13)[0])


def test_many_missed_ticks_come_a_few_at_a_time() -> None:
    every_hour = schedule("0 * * * *", missed=Missed.ALL)
    now = NOON + timedelta(minutes=30)
    made, next_tick_at = [], hours(3)[0]
    while next_tick_at <= now:
        ticks = ticks_due(every_hour, next_tick_at, now, 4)
        assert 0 < len(ticks.due) <= 4
        assert ticks.next_tick_at is not None
        made += ticks.due
        next_tick_at = ticks.next_tick_at

    assert made == hours(*range(3, 13))
    assert next_tick_at == hours(13)[0]


@given(
    st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 */5 * * 1-5", "15 3 1 * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.sampled_from(Missed),
    st.integers(0, 365 * 86_400).map(
        lambda s: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=s)
    ),
    st.lists(st.integers(1, 200_000), min_size=1, max_size=5),
)
def test_ticks_only_go_forward_and_none_comes_twice(
    cron: str, timezone: str, missed: Missed, start: datetime, looks_s: list[int]
) -> None:
    periodic = schedule(cron, timezone, missed)
    next_tick_at = next(periodic.ticks_after(start))
    now, made = start, []
    for look_s in looks_s:
        now += timedelta(seconds=look_s)
        if next_tick_at > now:
            continue
        ticks = ticks_due(periodic, next_tick_at, now, 5)
        assert ticks.next_tick_at is not None
        assert all(next_tick_at <= tick <= now for tick in ticks.due)
        made += ticks.due
        next_tick_at = ticks.next_tick_at

    assert made == sorted(set(made))
    assert not made or made[-1] < next_tick_at
    # Each is one of cron's.
    for tick in made:
        assert next(periodic.ticks_after(tick - timedelta(seconds=1))) == tick

"""FM_020: more run at once than may, and a tick has two jobs: somebody counted, and then acted."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import func, select, update

from jobq.database.execute import execute
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import LEASE_S, TASK, Shop
from jobq.failure_modes.transactions import interrupted, parties_of
from jobq.protocol.limits import Limit, line_of
from jobq.protocol.schedule import Missed, Schedule
from jobq.protocol.values import JobRequest
from jobq.store import schedules
from jobq.store.limits import LimitedClaim, claim_limited, declare
from jobq.store.portable import now
from jobq.store.step import Statement, Step

CAP = 2
MAIL = Limit("mail", concurrency=CAP)
REPORT = "shop.report"
NIGHTLY = Schedule(
    "nightly",
    # Half a day from any tick: none comes while the scenario is played.
    f"0 {(datetime.now(UTC).hour + 12) % 24} * * *",
    JobRequest(REPORT, "{}", "default", 0, 5, None, 0.0),
    missed=Missed.ONE,
)

Meanwhile = Callable[[], object] | None
StepOf = Callable[[Shop, str, Meanwhile], Step[Any]]
"""The step that this worker takes, with what happens in the middle of it."""


# -- two at once


def race(shop: Shop, step_of: StepOf, *, in_transactions: bool) -> None:
    """A is in the middle of its step when B takes the same; then A goes on."""
    if not shop.is_sqlite:
        with parties_of(shop) as parties:
            a, b = parties.open(), parties.open()

            def b_goes() -> None:
                b.run(step_of(shop, "B", None))
                b.commit()

            a.run(step_of(shop, "A", b_goes))
            a.commit()
    elif in_transactions:  # one writer at a time: B's turn comes when A is through
        for worker in ("A", "B"):
            shop.database.run(step_of(shop, worker, None))
    else:
        path = str(shop.database.url.database)
        with (
            closing(sqlite3.connect(path, isolation_level=None)) as a_file,
            closing(sqlite3.connect(path, isolation_level=None)) as b_file,
        ):
            execute(step_of(shop, "A", lambda: execute(step_of(shop, "B", None), b_file)), a_file)


# -- a limit on how many run at once


def count_then_claim(shop: Shop, worker: str, meanwhile: Meanwhile) -> Step[Any]:
    """What is missing: a row that says who may count. SKIP LOCKED keeps two claims from the same
    job, and not from one each."""
    store = shop.database.store
    leases = store.portable.tables.leases
    ((leased,),) = yield from store.portable.run(select(func.count()).select_from(leases))
    if meanwhile is not None:
        meanwhile()
    return (
        yield from store.claim(
            worker=worker,
            queues=["default"],
            tasks=[TASK],
            limit=max(0, CAP - leased),
            lease_s=LEASE_S,
        )
    )


def claim_under_limit(shop: Shop, worker: str, meanwhile: Meanwhile) -> Step[Any]:
    """jobq's, interrupted when it has counted and is about to lease."""
    claim = LimitedClaim(worker, None, [TASK], 10, LEASE_S)
    step = claim_limited(shop.database.store.portable, claim)
    return step if meanwhile is None else interrupted(step, is_leasing, meanwhile)


def is_leasing(statement: Statement) -> bool:
    return statement.sql.startswith("INSERT INTO") and "leases (" in statement.sql


def leased_at_once(shop: Shop, step_of: StepOf, line: str | None) -> int:
    """One runs, CAP may, and two workers claim."""
    store = shop.database.store
    shop.database.run(declare(store.portable, [MAIL]))
    request = JobRequest(TASK, "{}", "default", 0, 5, None, 0.0, line)
    shop.database.run(store.enqueue([request]))
    shop.database.run(step_of(shop, "first", None))
    shop.database.run(store.enqueue([request] * 5))
    race(shop, step_of, in_transactions=line is not None)
    ((leased,),) = shop.sql("SELECT count(*) FROM jobq.leases")
    return int(leased)


# -- a periodic job


def look_then_make(shop: Shop, worker: str, meanwhile: Meanwhile) -> Step[Any]:
    """What is missing: a row that only one tick can have. Each scheduler sees that it is time."""
    store = shop.database.store
    table = store.portable.tables.schedules
    due = yield from store.portable.run(
        select(table.c.name, now().label("now")).where(table.c.next_tick_at <= now())
    )
    if meanwhile is not None:
        meanwhile()
    for name, at in due:
        yield from store.enqueue([NIGHTLY.request])
        following = next(NIGHTLY.ticks_after(at))
        yield from store.portable.run(
            update(table).where(table.c.name == name).values(next_tick_at=following)
        )


def make_due(shop: Shop, worker: str, meanwhile: Meanwhile) -> Step[Any]:
    """jobq's, interrupted when it has looked and is about to enqueue."""
    step = schedules.make_due(shop.database.store)
    return step if meanwhile is None else interrupted(step, is_enqueueing, meanwhile)


def is_enqueueing(statement: Statement) -> bool:
    return "jobs (shard, id," in statement.sql


def jobs_of_a_tick(shop: Shop, step_of: StepOf, *, in_transactions: bool) -> int:
    """A tick is due, and two schedulers look."""
    shop.database.run(schedules.declare(shop.database.store.portable, [NIGHTLY]))
    be_due(shop)
    race(shop, step_of, in_transactions=in_transactions)
    ((jobs,),) = shop.sql(f"SELECT count(*) FROM jobq.jobs WHERE task = '{REPORT}'")
    return int(jobs)


def be_due(shop: Shop) -> None:
    """Nobody has looked since long ago."""
    past = "1704067200000" if shop.is_sqlite else "'2024-01-01T00:00Z'"
    shop.sql(f"UPDATE jobq.schedules SET next_tick_at = {past}")


# -- the nights on which clocks are changed

ZONE = "America/New_York"
BACK = datetime(2024, 11, 3, tzinfo=ZoneInfo(ZONE))
"""The day on which it is half past one twice."""
FORWARD = datetime(2024, 3, 10, tzinfo=ZoneInfo(ZONE))
"""The day that has no half past two."""
DAY = timedelta(days=1)
QUARTER = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Nights:
    """How often the jobs came that are to come daily, at a time that one night has twice and one
    not at all; and those that are to come every 15 minutes, in days of 25 and of 23 hours."""

    back: int
    forward: int
    quarters: tuple[int, int]


RIGHT = Nights(back=1, forward=1, quarters=(100, 92))


def by_the_clock_on_the_wall() -> Nights:
    """Each minute, look at the clock; for an interval, add it to what the clock showed."""

    def daily(day: datetime, hour: int) -> int:
        begin, end = day.astimezone(UTC), (day + DAY).astimezone(UTC)
        minutes = (begin + timedelta(minutes=n) for n in range((end - begin) // QUARTER * 15))
        shown = (minute.astimezone(day.tzinfo) for minute in minutes)
        return sum((clock.hour, clock.minute) == (hour, 30) for clock in shown)

    def quarters(day: datetime) -> int:
        shown, times = day.replace(tzinfo=None), 0
        while shown < (day + DAY).replace(tzinfo=None):
            shown, times = shown + QUARTER, times + 1
        return times

    return Nights(daily(BACK, 1), daily(FORWARD, 2), (quarters(BACK), quarters(FORWARD)))


def ticks_of(day: datetime, cron: str) -> list[datetime]:
    """What jobq's schedules make of an expression on a day in New York."""
    schedule = Schedule("nightly", cron, NIGHTLY.request, ZONE)
    end = (day + DAY).astimezone(UTC)
    coming = schedule.ticks_after(day - timedelta(seconds=1))
    return list(takewhile(lambda tick: tick < end, coming))


def by_schedule() -> Nights:
    quarters = "*/15 * * * *"
    return Nights(
        len(ticks_of(BACK, "30 1 * * *")),
        len(ticks_of(FORWARD, "30 2 * * *")),
        (len(ticks_of(BACK, quarters)), len(ticks_of(FORWARD, quarters))),
    )


# -- both halves


def told(leased: int, jobs: int, nights: Nights) -> Finding:
    return Finding(
        is_harmed=leased > CAP or jobs != 1 or nights != RIGHT,
        detail=f"{leased} jobs at once where {CAP} may run; {jobs} for one tick; a nightly job "
        f"came {nights.back}x when clocks went back, {nights.forward}x when they went forward",
        seen={"leased": leased, "jobs": jobs, "nights": nights},
    )


def reproduce(shop: Shop) -> Finding:
    """With claims that count, schedulers that look, and a cron that steps by the wall's clock."""
    return told(
        leased_at_once(shop, count_then_claim, None),
        jobs_of_a_tick(shop, look_then_make, in_transactions=False),
        by_the_clock_on_the_wall(),
    )


def prevent(shop: Shop) -> Finding:
    return told(
        leased_at_once(shop, claim_under_limit, line_of("default", [MAIL], {})),
        jobs_of_a_tick(shop, make_due, in_transactions=True),
        by_schedule(),
    )


FM = FailureMode(
    id="FM_020",
    title="limit overshot, cron fired twice",
    invariants=("I10",),
    reproduce=reproduce,
    prevent=prevent,
)

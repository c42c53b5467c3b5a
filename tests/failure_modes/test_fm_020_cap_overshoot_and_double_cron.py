"""FM_020: more run at once than may, and a tick has two jobs: somebody counted, and then acted.

At most two mails at once: a worker counts one lease, and may claim one more. So does another, at
the same moment. FOR UPDATE SKIP LOCKED keeps them from the same job; it slides on to the next one,
and three run. The same with time: two schedulers see that it is half past one, and each enqueues
the nightly job. On the night the clocks go back one scheduler is enough, if it goes by the clock on
the wall, which shows half past one twice.

In jobq whoever counts holds the row of what is counted, and whoever fires writes a row that only
one can write (invariant I10). What a cron expression means on the nights between summer and winter
is left to a library that knows.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest

from jobq.failure_modes.fm_020_cap_overshoot_and_double_cron import (
    BACK,
    CAP,
    FORWARD,
    MAIL,
    NIGHTLY,
    REPORT,
    RIGHT,
    Nights,
    be_due,
    by_schedule,
    by_the_clock_on_the_wall,
    claim_under_limit,
    is_enqueueing,
    prevent,
    reproduce,
    ticks_of,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import LEASE_S, TASK, Shop
from jobq.failure_modes.transactions import WAIT_S, Parties, interrupted
from jobq.failure_modes.weakened import by
from jobq.protocol.limits import line_of
from jobq.protocol.values import JobRequest, Lease
from jobq.store import schedules
from jobq.store.limits import declare
from jobq.store.postgres import PostgresStore
from jobq.store.step import Statement, Step

LOCK = " FOR UPDATE SKIP LOCKED"


def test_reproduces_both(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.is_harmed
    assert found.seen["leased"] == CAP + 1
    assert found.seen["jobs"] == 2
    assert found.seen["nights"] == Nights(back=2, forward=0, quarters=(96, 96))


def test_prevented_by_rows_that_one_can_have(shop: Shop) -> None:
    found = prevent(shop)

    assert not found.is_harmed
    assert found.seen == {"leased": CAP, "jobs": 1, "nights": RIGHT}
    assert violations(shop, is_every_commit_charged=True) == {}


# -- a limit on how many run at once


class _CountsInTheClaim(PostgresStore):
    """The count is in the claim itself, one statement, as if that made it one moment."""

    def _statement(self, template: str, **params: object) -> Statement:
        known = "AND ready.task = ANY (%(tasks)s::text[])"
        count = f"{known} AND (SELECT count(*) FROM {{schema}}.leases) < {CAP}"
        return super()._statement(template.replace(known, count), **params)


def test_reproduces_it_with_the_count_inside_the_claim(
    postgres_shop: Shop, parties: Parties
) -> None:
    """B does not see the lease that A has not committed, and slides past the row it has locked."""
    shop = postgres_shop
    shop.weaken(by(_CountsInTheClaim))
    shop.enqueue()
    shop.claim_one("first")
    shop.enqueue_many(3)
    a, b = parties.open(), parties.open()
    for claiming in (a, b):
        claiming.run(
            shop.database.store.claim(
                worker="A", queues=["default"], tasks=[TASK], limit=1, lease_s=LEASE_S
            )
        )
    a.commit()
    b.commit()

    assert shop.sql("SELECT count(*) FROM jobq.leases") == [(CAP + 1,)]
    assert shop.claim("C") == [], "now it would hold"


@pytest.mark.parametrize("ends", ["commits", "dies"])
def test_prevented_whatever_becomes_of_the_one_that_counted(
    postgres_shop: Shop, parties: Parties, ends: str
) -> None:
    """B leaves the key that A holds; it finds the slot free, or taken, once A has ended."""
    shop, store = postgres_shop, postgres_shop.database.store
    shop.database.run(declare(store.portable, [MAIL]))
    request = JobRequest(TASK, "{}", "default", 0, 5, None, 0.0, line_of("default", [MAIL], {}))
    shop.database.run(store.enqueue([request] * 5))
    shop.database.run(claim_under_limit(shop, "first", None))
    shop.complete(leases(shop)[0])
    a, b = parties.open(), parties.open()

    assert len(a.run(claim_under_limit(shop, "A", None)).claimed) == 1
    assert b.run(claim_under_limit(shop, "B", None)).claimed == []
    b.commit()
    (a.commit if ends == "commits" else a.rollback)()

    later = b.run(claim_under_limit(shop, "B", None)).claimed
    b.commit()
    assert len(later) == (0 if ends == "commits" else 1)
    assert len(leases(shop)) == CAP


# -- a periodic job


def _without_lock(step: Step[float | None]) -> Step[float | None]:
    """No scheduler leaves a schedule to another; the unique key of the tick is all there is."""
    statement = next(step)
    while True:
        rows = yield replace(statement, sql=statement.sql.replace(LOCK, ""))
        try:
            statement = step.send(rows)
        except StopIteration as end:
            found: float | None = end.value
            return found


def test_prevented_by_the_key_of_the_tick_alone(postgres_shop: Shop, parties: Parties) -> None:
    """A lock can be forgotten; a second job for one tick cannot be written."""
    shop, store = postgres_shop, postgres_shop.database.store
    shop.database.run(schedules.declare(store.portable, [NIGHTLY]))
    be_due(shop)
    a, b = parties.open(), parties.open()

    def b_goes() -> None:
        b.run(_without_lock(schedules.make_due(store)))
        b.commit()

    late = a.start(interrupted(_without_lock(schedules.make_due(store)), is_enqueueing, b_goes))
    with pytest.raises(psycopg.errors.UniqueViolation, match="ticks"):
        late.result(WAIT_S)
    a.rollback()

    assert jobs(shop) == 1


def test_prevented_when_a_scheduler_dies_with_the_job_made(
    postgres_shop: Shop, parties: Parties
) -> None:
    """Tick, job and the schedule's next time are one transaction: not two jobs, and not none."""
    shop, store = postgres_shop, postgres_shop.database.store
    shop.database.run(schedules.declare(store.portable, [NIGHTLY]))
    be_due(shop)
    a, b = parties.open(), parties.open()
    a.run(schedules.make_due(store))
    b.run(schedules.make_due(store))
    b.commit()
    assert jobs(shop) == 0, "B leaves it to A"
    a.rollback()

    shop.database.run(schedules.make_due(store))
    assert jobs(shop) == 1


def test_prevented_when_the_clock_goes_back(shop: Shop) -> None:
    """The database's host is set right: the same tick is due again, and has its job."""
    shop.database.run(schedules.declare(shop.database.store.portable, [NIGHTLY]))
    for _ in range(2):
        be_due(shop)
        shop.database.run(schedules.make_due(shop.database.store))

    assert jobs(shop) == 1


# -- the nights on which clocks are changed


def test_reproduces_the_night_that_has_an_hour_twice() -> None:
    assert by_the_clock_on_the_wall().back == 2
    assert by_the_clock_on_the_wall().forward == 0, "and the night that lacks one has no job"


def test_prevented_on_both_nights() -> None:
    assert by_schedule() == RIGHT
    first_half_past_one = datetime(2024, 11, 3, 5, 30, tzinfo=UTC)
    end_of_the_gap = datetime(2024, 3, 10, 7, tzinfo=UTC)
    assert ticks_of(BACK, "30 1 * * *") == [first_half_past_one]
    assert ticks_of(FORWARD, "30 2 * * *") == [end_of_the_gap]


def leases(shop: Shop) -> list[Lease]:
    return [Lease(*row) for row in shop.sql("SELECT job_id, token FROM jobq.leases ORDER BY 1")]


def jobs(shop: Shop) -> int:
    ((count,),) = shop.sql(f"SELECT count(*) FROM jobq.jobs WHERE task = '{REPORT}'")
    return int(count)

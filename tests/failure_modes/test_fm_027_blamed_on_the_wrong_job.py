"""FM_027: effects follow each other on one connection, and the wrong job is told of an error.

To save round trips a worker sends COMMIT of one effect together with what begins the next. Then a
deferred constraint refuses the COMMIT, and the error is read where the next job reads its first
answer: that one is marked failed, and the one which was never charged is done. Or the next job
cannot begin, the message as a whole has failed, and the one before, charged and committed, is
marked failed.

The fix is to read what the server says statement by statement (I2, I3): an effect's outcome is
known from the answers up to its own COMMIT, and whatever failed after it belongs to the next, which
begins anew and sees by itself.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection

from jobq import Job, JobQueue, State
from jobq.failure_modes.fm_027_blamed_on_the_wrong_job import (
    FAULTS,
    ORDERS,
    by_message,
    play,
    reproduce,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import wait_until
from jobq.task import Task

BOTH = {"told": {"A": "done", "B": "done"}, "charged": ["A", "B"]}
CHARGE = "INSERT INTO ledger VALUES (%s, 'W')"
ORDER = "INSERT INTO orders VALUES (%s, %s)"


def test_reproduces_a_job_that_is_done_and_was_never_charged(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop)

    assert found.is_harmed
    assert found.seen["nothing"] == BOTH, "all is well as long as all is well"
    assert found.seen["A's COMMIT"] == {"told": {"A": "done", "B": "failed"}, "charged": []}


def test_reproduces_a_job_that_was_charged_and_is_told_to_fail(postgres_shop: Shop) -> None:
    found = play(postgres_shop, by_message)

    assert found.is_harmed
    assert found.seen["B's record"] == {"told": {"A": "failed", "B": "done"}, "charged": ["A", "B"]}


def test_prevented_at_every_position_of_the_chain(postgres_shop: Shop) -> None:
    found = play(postgres_shop)

    assert not found.is_harmed
    assert found.seen == {
        "nothing": BOTH,
        "A's COMMIT": {"told": {"A": "failed", "B": "done"}, "charged": ["B"]},
        "B's record": BOTH,
        "B's COMMIT": {"told": {"A": "done", "B": "failed"}, "charged": ["A"]},
    }
    assert set(found.seen) == set(FAULTS)
    assert not violations(postgres_shop, is_every_commit_charged=True)


@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "async"])
@pytest.mark.parametrize("bad", [0, 2, 4], ids=["first", "in the middle", "last"])
def test_prevented_on_a_worker_whose_effects_follow_each_other(
    postgres_shop: Shop, bad: int, is_async: bool
) -> None:
    """One handler at a time, and it knows what comes next: its effects are a chain."""
    shop = postgres_shop
    shop.sql(ORDERS)
    app = JobQueue(shop.url)

    def charge(db: Connection, job: Job, replaces: int | None) -> None:
        db.execute(CHARGE, (job.id,))
        db.execute(ORDER, (job.id, replaces))

    async def charge_async(db: AsyncConnection, job: Job, replaces: int | None) -> None:
        await db.execute(CHARGE, (job.id,))
        await db.execute(ORDER, (job.id, replaces))

    task: Task[..., Any] = app.task(name="charge", max_attempts=1)(
        charge_async if is_async else charge
    )
    jobs = [task.enqueue(404 if number == bad else None) for number in range(5)]
    with app.worker(poll_s=0.02, concurrency=1):
        wait_until(
            lambda: all(shop.state(job.id) in (State.DONE, State.DEAD) for job in jobs),
            "the end of five jobs",
        )
    app.close()

    states = [shop.state(job.id) for job in jobs]
    assert states == [State.DEAD if number == bad else State.DONE for number in range(5)]
    charged = sorted(job_id for (job_id,) in shop.sql("SELECT job_id FROM ledger"))
    assert charged == [job.id for number, job in enumerate(jobs) if number != bad]
    (attempt,) = shop.attempts(jobs[bad].id)
    assert attempt.error is not None
    assert "orders_replaces_fkey" in attempt.error.message


def test_the_error_is_the_databases_own(postgres_shop: Shop) -> None:
    """A message of several statements has one error, that of the statement which failed."""
    postgres_shop.sql(ORDERS)
    with psycopg.connect(postgres_shop.url, autocommit=True) as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO orders VALUES (1, 404)")
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            connection.execute("COMMIT; BEGIN; SELECT 1 / 0")
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE

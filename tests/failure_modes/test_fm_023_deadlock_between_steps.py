"""FM_023: two steps wait for each other's rows, and the database ends one of them.

A worker finalizes a batch, a reconciler recovers one, both have some of the same leases, and each
locks its rows as they came to it. The one has the first row and wants the last, the other has the
last and wants the first. After a second PostgreSQL ends one of them with 40P01: a batch of
completions is undone because of two rows in it.

The fix is one order of locks for every step: a job's place before its record, several leases by
their job ids, several keys by their text, and whoever does not have to wait skips. An order that
is not jobq's own to choose, that of a handler's rows or an operator's, can still end a transaction:
then the step is taken again, and the attempt is retried.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import Connection

from jobq import Job, JobQueue, Retry, State
from jobq.errors import DatabaseUnavailable
from jobq.failure_modes.fm_023_deadlock_between_steps import (
    IN_ANY_ORDER,
    LOCK_LEASE,
    SCENES,
    play,
    reproduce,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import WAIT_S, Parties, wait_until
from jobq.protocol.states import AttemptEnd


def test_reproduces_a_step_that_is_undone(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop)

    assert found.is_harmed
    assert set(found.seen) == set(IN_ANY_ORDER)
    for name, endings in found.seen.items():
        assert endings.count("deadlock") == 1, f"{name}: {endings}"


def test_prevented_by_one_order_of_locks(postgres_shop: Shop) -> None:
    found = play(postgres_shop)

    assert not found.is_harmed
    assert set(found.seen) == set(SCENES)
    assert all(endings == ["done", "done"] for endings in found.seen.values())
    assert not violations(postgres_shop, is_every_commit_charged=False)


def test_reproduces_it_with_keys_enqueued_one_by_one(postgres_shop: Shop) -> None:
    """On jobq as it is: the order of several calls in one transaction is the caller's."""
    found = play(postgres_shop, {"one by one": IN_ANY_ORDER["enqueue and enqueue"]})

    assert found.seen["one by one"].count("deadlock") == 1


def test_a_step_that_was_ended_is_taken_again(postgres_shop: Shop, parties: Parties) -> None:
    """By an operator with a session of their own, who locks leases from the other end."""
    shop = postgres_shop
    shop.enqueue_many(3)
    leases = [claimed.lease for claimed in shop.claim("A", 3)]
    for lease in leases:
        effect = shop.effect(lease, "A")
        effect.charge()
        effect.commit()
    gate, operator = parties.open(), parties.open()
    gate.sql(LOCK_LEASE.format(job_id=leases[1].job_id))
    operator.sql("SET deadlock_timeout = '1h'")  # so that it is not the operator who is ended
    operator.sql(LOCK_LEASE.format(job_id=leases[2].job_id))
    link = shop.database.link()
    with ThreadPoolExecutor(2) as pool:
        turn = pool.submit(lambda: link.run(shop.database.store.finalize(leases)))
        parties.wait_for_blocked_by(gate.pid)
        # The whole operator waits, on a thread of this test.
        operator.sql("SET lock_timeout = 0")
        waiting = pool.submit(operator.sql, LOCK_LEASE.format(job_id=leases[0].job_id))
        parties.wait_until_blocked(operator.pid)
        gate.rollback()

        with pytest.raises(DatabaseUnavailable, match="deadlock detected"):
            turn.result(WAIT_S)
        waiting.result(WAIT_S)
    assert {shop.state(lease.job_id) for lease in leases} == {State.COMMITTED}
    operator.rollback()

    link.run(shop.database.store.finalize(leases))
    link.close()

    assert {shop.state(lease.job_id) for lease in leases} == {State.DONE}


def test_handlers_that_deadlock_over_their_own_rows_charge_once(postgres_shop: Shop) -> None:
    """One is ended by the database, its attempt has failed, and the retry charges."""
    shop = postgres_shop
    shop.sql("CREATE TABLE accounts (id int PRIMARY KEY, cents int NOT NULL)")
    shop.sql("INSERT INTO accounts VALUES (1, 0), (2, 0)")
    both_hold_one = threading.Barrier(2, timeout=WAIT_S)
    app = JobQueue(shop.url)

    @app.task(retry=Retry(base_s=0.05, cap_s=0.1))
    def transfer(db: Connection, job: Job, source: int, target: int) -> None:
        db.execute("UPDATE accounts SET cents = cents - 1 WHERE id = %s", (source,))
        if job.attempt == 1:
            both_hold_one.wait()
        db.execute("UPDATE accounts SET cents = cents + 1 WHERE id = %s", (target,))
        db.execute("INSERT INTO ledger VALUES (%s, 'A')", (job.id,))

    jobs = [transfer.enqueue(source=1, target=2), transfer.enqueue(source=2, target=1)]
    with app.worker(poll_s=0.02, concurrency=2):
        wait_until(lambda: {shop.state(job.id) for job in jobs} == {State.DONE}, "both transfers")
    app.close()

    failed = [
        attempt for job in jobs for attempt in shop.attempts(job.id) if attempt.error is not None
    ]
    assert [attempt.end for attempt in failed] == [AttemptEnd.FAILED]
    assert failed[0].error is not None
    assert "deadlock detected" in failed[0].error.message
    assert shop.ledger() == ["A", "A"]
    assert shop.sql("SELECT cents FROM accounts") == [(0,), (0,)]

"""FM_032: a job without its order, or an order without its job.

The order is in one transaction and its job in another (or in a broker, which is the same). Enqueue
first, and a job is there whose order is rolled back a moment later, or not committed yet when a
quick worker looks for it. Enqueue after the commit, and the process can be killed in between: the
order is there, and nobody will ever pay for it.

In jobq a job exists if and only if the transaction that enqueued it commits, and `enqueue_in` takes
that of the caller. There is no moment at which one is there and the other is not.
"""

from __future__ import annotations

import psycopg

from jobq import JobQueue, State
from jobq.database.url import conninfo
from jobq.failure_modes.fm_032_phantom_or_lost_job import (
    STEPS,
    job_first,
    order_first,
    play,
    prevent,
    reproduce,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import LEASE_S, TASK, Shop
from jobq.failure_modes.transactions import WAIT_S, Parties
from jobq.protocol.values import JobRequest

CHARGE = JobRequest(TASK, "{}", "default", 0, 5, None, 0.0)
CHANNEL = "jobq.ready"


def test_reproduces_phantom_jobs_and_unpaid_orders(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.is_harmed
    assert found.seen["phantom"] == ["job_first, 1 of 3 steps", "job_first, 2 of 3 steps"]
    assert found.seen["unpaid"] == ["job_first, 3 of 3 steps", "order_first, 2 of 3 steps"]


def test_reproduces_a_job_that_came_before_its_order(shop: Shop) -> None:
    """The third of those that enqueue first: nothing failed, the worker was only quick."""
    found = play(shop, job_first)

    assert found.seen["unpaid"] == ["job_first, 3 of 3 steps"]
    assert violations(shop, is_every_commit_charged=False) == {}, "the queue itself is sound"


def test_reproduces_that_a_hook_after_the_commit_only_moves_the_gap(shop: Shop) -> None:
    found = play(shop, order_first)

    assert found.seen["phantom"] == []
    assert found.seen["unpaid"] == ["order_first, 2 of 3 steps"]


def test_prevented_by_enqueueing_in_the_orders_transaction(shop: Shop) -> None:
    found = prevent(shop)

    assert not found.is_harmed
    assert found.seen == {"phantom": [], "unpaid": [], "orders": 1}, "the one that was committed"
    ((jobs,),) = shop.sql("SELECT count(*) FROM jobq.jobs")
    assert jobs == 1, f"of {STEPS + 1}"
    assert violations(shop, is_every_commit_charged=False) == {}


def test_prevented_for_a_worker_that_looks_before_the_commit(
    postgres_shop: Shop, parties: Parties
) -> None:
    """Nobody can claim, count or promote what is not committed, and nobody waits for it."""
    shop = postgres_shop
    ordering, claiming = parties.open(), parties.open()
    (job_id,) = ordering.run(shop.database.store.enqueue([CHARGE]))

    looking = shop.database.store.claim(
        worker="A", queues=["default"], tasks=[TASK], limit=10, lease_s=LEASE_S
    )
    assert claiming.run(looking) == []
    claiming.commit()
    assert shop.database.run(shop.database.store.counts())[State.READY] == 0
    ordering.commit()

    assert shop.claim_one("A").job_id == job_id


def test_prevented_for_what_a_handler_enqueues_in_its_effect(shop: Shop) -> None:
    """An effect that is refused or rolled back takes the jobs that it enqueued along."""
    app = JobQueue(shop.url, schema=shop.schema)

    @app.task(name="shop.thank")
    def thank(order_id: int) -> None: ...

    shop.enqueue()
    lease = shop.claim_one("A")
    first = shop.effect(lease, "A")
    first.charge()
    thank.enqueue_in(first.connection, 1)
    first.roll_back()
    assert shop.sql("SELECT count(*) FROM jobq.jobs") == [(1,)]

    shop.recover(lease)
    second = shop.effect(shop.claim_one("B"), "B")
    second.charge()
    kept = thank.enqueue_in(second.connection, 1)
    second.commit()
    app.close()

    assert shop.ledger() == ["B"]
    assert [claimed.lease.job_id for claimed in shop.claim("B", tasks=["shop.thank"])] == [kept.id]


def test_prevented_that_anybody_is_woken_for_a_job_that_was_rolled_back(
    postgres_shop: Shop, parties: Parties
) -> None:
    """The notification is part of the transaction too."""
    shop, store = postgres_shop, postgres_shop.database.store
    shop.database.run(store.listen("idle", None))
    with psycopg.connect(conninfo(shop.database.url), autocommit=True) as listener:
        listener.execute(f'LISTEN "{CHANNEL}"')
        rolled_back, committed = parties.open(), parties.open()
        rolled_back.run(store.enqueue([CHARGE]))
        rolled_back.rollback()
        committed.run(store.enqueue([CHARGE]))
        committed.commit()
        told = [said.pid for said in listener.notifies(timeout=WAIT_S, stop_after=1)]
        told += [said.pid for said in listener.notifies(timeout=0)]

    assert told == [committed.pid]

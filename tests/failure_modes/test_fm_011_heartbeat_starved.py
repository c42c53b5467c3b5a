"""FM_011: a busy worker's heartbeats starve, and a live job is taken away.

A lease is a promise to come back in time, and what keeps it must not depend on the work that it
is kept for. Heartbeats from the event loop stop while an `async def` handler computes; heartbeats
from the connection pool wait while handlers hold all of it; a worker that was told to stop may
stop them first and wait for its handlers afterwards. Each time a job that is being worked on is
given to somebody else, who starts it a second time.

jobq's heartbeats come from a thread and a connection of their own, until the last handler ended.
"""

from __future__ import annotations

import threading

from jobq import AttemptEnd, Job, JobQueue, State
from jobq.failure_modes.fm_011_heartbeat_starved import (
    LEASE_S,
    FallsSilentFirst,
    play,
    prevent,
    reproduce,
)
from jobq.failure_modes.shop import TASK, Shop
from jobq.failure_modes.transactions import wait_until
from jobq.worker import Worker


def test_reproduces_a_job_taken_from_a_handler_that_blocks_the_loop(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.seen["taken"]
    assert found.seen["starts"] == 2, "the harm: two handlers at once"
    assert found.seen["ends"] == [AttemptEnd.EXPIRED], "though its worker was never gone"
    assert found.is_harmed


def test_reproduces_a_job_taken_from_a_worker_that_drains(shop: Shop) -> None:
    found = play(shop, FallsSilentFirst, is_draining=True)

    assert found.seen["starts"] == 2
    assert found.is_harmed


def test_prevented_while_a_handler_blocks_the_loop(shop: Shop) -> None:
    found = prevent(shop)

    assert found.seen == {"taken": False, "starts": 1, "state": State.DONE, "ends": []}
    assert not found.is_harmed


def test_prevented_while_the_worker_drains(shop: Shop) -> None:
    found = play(shop, Worker, is_draining=True)

    assert found.seen == {"taken": False, "starts": 1, "state": State.DONE, "ends": []}
    assert not found.is_harmed


def test_prevented_while_handlers_hold_every_connection_of_the_pool(postgres_shop: Shop) -> None:
    """Inside its effect an attempt's lease is locked, and extended all the same."""
    shop = postgres_shop
    inside, go_on = threading.Event(), threading.Event()
    app = JobQueue(shop.url)

    @app.task(name=TASK)
    def hold_the_pool(job: Job) -> None:
        with job.commit() as db:
            db.connection()
            inside.set()
            while not go_on.wait(0.1):
                db.connection().exec_driver_sql("SELECT 1")  # at work, so not FM_026

    job = hold_the_pool.enqueue()
    with app.worker(lease_s=LEASE_S, poll_s=0.05, concurrency=1):
        try:
            wait_until(inside.is_set, "the handler to hold the pool's one connection")
            first = shop.job(job.id).lease_expires_at
            assert first is not None

            def is_extended() -> bool:
                now = shop.job(job.id).lease_expires_at
                return now is not None and (now - first).total_seconds() > LEASE_S

            wait_until(is_extended, "the lease to outlive its first end")
        finally:
            go_on.set()
    app.close()
    assert shop.state(job.id) is State.DONE

"""FM_016: the database restarts, and the worker with what it had in hand is lost.

A failover, an upgrade, an administrator's pg_terminate_backend, a pool that used up the last
connection slot: now and then every session of a worker ends at once, and for a while it gets no
new one. A worker that connects when it starts dies with its first error; one that marks jobs done
in batches forgets whose work was finished, and those jobs are done again when their leases end.

jobq's worker reconnects, and sends its reports again: each is fenced by its token, so it does no
harm twice. What was committed needs no report at all (invariants I2 and I6).
"""

from __future__ import annotations

import threading

import pytest

from jobq import Job, JobQueue
from jobq.failure_modes.fm_016_database_restart import (
    BETWEEN,
    DONE,
    FAULTS,
    JOBS,
    KILL,
    ROLE,
    Fault,
    count,
    jobq_worker,
    one_connection_worker,
    play,
    prevent,
    reproduce,
    url_of_worker,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import TASK, Shop
from jobq.failure_modes.transactions import WAIT_S, wait_until

every_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)


def test_reproduces_a_worker_that_dies_and_forgets(server_shop: Shop) -> None:
    found = reproduce(server_shop)

    assert found.seen == {
        "done": 0,
        "charges": BETWEEN,
        "forgotten": BETWEEN,
        "is_alive": False,
    }
    assert found.is_harmed


@every_fault
def test_reproduces_it_by_each_fault(server_shop: Shop, fault: Fault) -> None:
    found = play(server_shop, one_connection_worker, (fault,))

    assert found.seen["done"] == 0
    assert not found.seen["is_alive"]


def test_prevented_through_all_of_them(server_shop: Shop) -> None:
    found = prevent(server_shop)

    assert found.seen == {"done": JOBS, "charges": JOBS, "forgotten": 0, "is_alive": True}
    assert not found.is_harmed
    assert violations(server_shop, is_every_commit_charged=True) == {}


@every_fault
def test_prevented_through_a_fault_that_comes_again_and_again(
    server_shop: Shop, fault: Fault
) -> None:
    found = play(server_shop, jobq_worker, (fault, fault, fault))

    assert found.seen == {"done": JOBS, "charges": JOBS, "forgotten": 0, "is_alive": True}


def test_prevented_for_what_was_finished_while_the_database_was_away(
    server_shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """A job with no effect here is done when its report arrives; the first ones cannot."""
    started, go_on = threading.Semaphore(0), threading.Event()
    ended: list[int] = []
    app = JobQueue(url_of_worker(server_shop))

    @app.task(name=TASK)
    def call_somebody(job: Job) -> None:
        started.release()
        go_on.wait(WAIT_S)
        ended.append(job.id)

    def wait_for_a_refusal() -> None:
        caplog.clear()
        wait_until(lambda: "too many connections" in caplog.text, "a refused connection")

    jobs = app.enqueue_many([call_somebody.request() for _ in range(2)])
    app.close()
    with app.worker(poll_s=0.05, concurrency=2):
        for _ in jobs:
            assert started.acquire(timeout=WAIT_S)
        server_shop.sql(f"ALTER ROLE {ROLE} CONNECTION LIMIT 0")
        server_shop.sql(KILL)
        wait_for_a_refusal()
        go_on.set()
        wait_until(lambda: len(ended) == 2, "both handlers to return")
        wait_for_a_refusal()  # of their reports
        server_shop.sql(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")
        wait_until(lambda: count(server_shop, DONE) == 2, "the reports to arrive")

    assert sorted(ended) == [job.id for job in jobs], "each ran once"
    assert server_shop.sql("SELECT * FROM jobq.leases") == []

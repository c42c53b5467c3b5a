"""No job waits behind another in one worker's hands while a handler of another worker is free."""

from __future__ import annotations

import threading

from jobq import JobQueue
from tests.worker.conftest import Site

BOUND_S = 30.0


def test_a_slow_job_holds_up_none_behind_it(site: Site) -> None:
    app, slow = JobQueue(site.url), Slow()

    @app.task(name="take")
    def take(is_slow: bool) -> None:
        if is_slow:
            slow.run()

    hanging, *quick = app.enqueue_many([take.request(is_slow=n == 0) for n in range(3)])
    with app.worker(concurrency=1, poll_s=0.05):
        assert slow.is_running.wait(BOUND_S)
        with app.worker(concurrency=1, poll_s=0.05):
            for job in quick:
                job.wait(BOUND_S)
        slow.may_end.set()
        hanging.wait(BOUND_S)

    assert [app.status(job.id).attempts for job in (hanging, *quick)] == [1, 1, 1]
    app.close()


def test_what_was_leased_for_quick_handlers_goes_back_when_they_hang(site: Site) -> None:
    """After so many quick jobs the worker leases ahead; then its handler hangs, with the others
    waiting behind it. They cost no attempt and no order."""
    app, slow = JobQueue(site.url), Slow()

    @app.task(name="take")
    def take(number: int) -> None:
        if number == 300:
            slow.run()

    jobs = app.enqueue_many([take.request(number=n) for n in range(600)])
    with app.worker(concurrency=1, poll_s=0.05):
        assert slow.is_running.wait(BOUND_S)
        with app.worker(concurrency=1, poll_s=0.05):
            for job in (*jobs[:300], *jobs[301:]):
                job.wait(BOUND_S)
        slow.may_end.set()
        jobs[300].wait(BOUND_S)

    assert {app.status(job.id).attempts for job in jobs} == {1}
    app.close()


class Slow:
    """A handler that runs for as long as the test likes."""

    def __init__(self) -> None:
        self.is_running = threading.Event()
        self.may_end = threading.Event()

    def run(self) -> None:
        self.is_running.set()
        assert self.may_end.wait(3 * BOUND_S)

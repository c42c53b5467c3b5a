"""A steady stream of urgent jobs does not keep the others waiting for ever."""

from __future__ import annotations

from jobq import JobQueue, State
from tests.worker.conftest import BOUND_S, Site, wait_for


def test_a_job_further_down_has_its_turn(site: Site) -> None:
    app = JobQueue(site.url)
    is_over = False

    @app.task(name="urgent")
    def urgent() -> None:
        """Each is followed by another, so that there is always one."""
        if not is_over:
            urgent.enqueue()

    @app.task(name="patient")
    def patient() -> None: ...

    app.enqueue_many(urgent.request() for _ in range(20))
    jobs = [patient.using(priority=level).enqueue() for level in (5, 9)]
    with app.worker(poll_s=0.05, concurrency=2, prefetch=0):
        for job in jobs:
            assert job.wait(BOUND_S).state in (State.COMMITTED, State.DONE)
        assert site.counts()[State.READY] > 0, "the urgent ones had run out"
        is_over = True
        wait_for(lambda: site.counts()[State.READY] == 0, "the rest to be done", site)
    app.close()

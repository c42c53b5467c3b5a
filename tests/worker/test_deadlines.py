"""A worker buries what is too late, and runs what is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from jobq import InvalidOption, JobFailed, JobQueue, State
from tests.worker.conftest import BOUND_S, Site


def test_late_jobs_are_buried_and_the_others_run(site: Site) -> None:
    app = JobQueue(site.url)

    @app.task(name="greet")
    def greet() -> None: ...

    past = datetime.now(UTC) - timedelta(seconds=5)
    later = datetime.now(UTC) + timedelta(hours=1)
    late, timely, none = app.enqueue_many(
        [
            greet.using(deadline=past, queue="unserved").request(),
            greet.using(deadline=later).request(),
            greet.request(),
        ]
    )
    waiting = greet.using(delay=3600, deadline=timedelta(seconds=0.1)).enqueue()
    with app.worker(poll_s=0.05, queues=["default"]):
        for job in (late, waiting):
            with pytest.raises(JobFailed, match="deadline has passed"):
                job.result(BOUND_S)
        for job in (timely, none):
            assert job.wait(BOUND_S).state in (State.COMMITTED, State.DONE)
    app.close()


def test_a_deadline_that_is_none_is_refused(site: Site) -> None:
    def plain() -> None: ...

    app = JobQueue(site.url)
    task = app.task(plain)
    with pytest.raises(InvalidOption, match="no time zone"):
        task.using(deadline=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(InvalidOption, match="a delay is a finite time"):
        task.using(deadline=-1)
    with pytest.raises(InvalidOption, match="cannot have a deadline"):
        app.schedule("daily", "0 4 * * *", task.using(deadline=60).request())
    app.close()

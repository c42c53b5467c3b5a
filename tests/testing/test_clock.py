"""Time that a test lets pass in the database."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobq import InvalidOption, Job, JobQueue, Limit, Retention, Retry, State, Unique
from jobq.testing import advance, drain, enqueued


def test_what_is_scheduled_comes_due(app: JobQueue) -> None:
    note = app.task(name="note")(lambda: None)
    soon = note.using(delay=60).enqueue()
    late = note.using(delay=7200).enqueue()

    advance(app, 59)
    assert drain(app) == []
    advance(app, timedelta(hours=1))

    assert [one.id for one in drain(app)] == [soon.id]
    assert [job.id for job in enqueued(app)] == [late.id]


def test_a_retry_comes_due_after_its_backoff(app: JobQueue) -> None:
    @app.task(retry=Retry(base_s=3600, cap_s=3600))
    def charge(job: Job) -> None:
        if job.attempt == 1:
            raise ValueError("no money")

    charge.enqueue()
    drain(app, raises=False)
    advance(app, 3600)

    assert [(one.state, one.attempts) for one in drain(app)] == [(State.DONE, 2)]


def test_jobs_keep_their_order(app: JobQueue) -> None:
    """Those that are ready already have waited for longer than those that come due now."""
    seen: list[int] = []
    note = app.task(name="note")(lambda number: seen.append(number))
    note.using(delay=60).enqueue(number=2)
    note.enqueue(number=1)
    advance(app, 3600)
    note.enqueue(number=3)
    drain(app)

    assert seen == [1, 2, 3]


def test_leases_expire_and_limits_fill_up_again(app: JobQueue) -> None:
    @app.task(max_attempts=1)
    def charge() -> None: ...

    @app.task(limits=[Limit("bank", rate=1, per_s=60)])
    def limited() -> None: ...

    job = charge.enqueue()
    store = app.database.store
    app.database.run(
        store.claim(worker="A", queues=["default"], tasks=[charge.name], limit=1, lease_s=60)
    )
    app.enqueue_many([limited.request()] * 2)
    assert [one.state for one in drain(app)] == [State.DONE]
    advance(app, 61)

    assert [one.state for one in drain(app)] == [State.DONE]
    assert job.status().state is State.DEAD, "its worker sent no heartbeat for so long"


def test_what_is_kept_for_a_time_gets_older(app: JobQueue) -> None:
    @app.task(unique=Unique(within_s=3600), keep=Retention(committed_s=7200))
    def report() -> None: ...

    first = report.enqueue()
    assert report.enqueue().id == first.id
    advance(app, 3601)

    assert report.enqueue().is_new
    created_at = first.status().created_at
    drain(app)
    advance(app, 1000)
    status = first.status()
    assert status.recorded_at is not None
    assert created_at - status.created_at == timedelta(seconds=1000)
    assert report.enqueue().id != first.id


def test_time_does_not_run_backwards(app: JobQueue) -> None:
    for seconds in (-1, float("nan"), float("inf")):
        with pytest.raises(InvalidOption, match="seconds"):
            advance(app, seconds)

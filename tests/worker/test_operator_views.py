"""What an operator sees of jobs, workers and what was done by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection

from jobq import InvalidOption, Job, JobNotFound, JobQueue, Retry, State
from tests.worker.conftest import BOUND_S, Site, wait_for


@pytest.fixture
def app(site: Site) -> Iterator[JobQueue]:
    app = JobQueue(site.url)

    @app.task(name="add", queue="sums")
    def add(n: int) -> int:
        return n

    @app.task(name="fail", queue="bad", max_attempts=1)
    def fail(n: int) -> None:
        raise ValueError(f"no {n}")

    @app.task(name="retried", max_attempts=3, retry=Retry(base_s=0.01, cap_s=0.01))
    def retried(db: Connection, job: Job) -> None:
        if job.attempt < 3:
            raise ValueError("not yet")

    yield app
    app.close()


def test_jobs_are_listed_newest_first_page_by_page(app: JobQueue) -> None:
    handles = app.enqueue_many(app.tasks["add"].request(n) for n in range(7))
    ids = [handle.id for handle in reversed(handles)]

    first = app.jobs.list(limit=3)
    second = app.jobs.list(limit=3, before=first.before)
    third = app.jobs.list(limit=3, before=second.before)

    assert [job.id for job in [*first.jobs, *second.jobs, *third.jobs]] == ids
    assert third.before is None
    assert {job.state for job in first.jobs} == {State.READY}


def test_jobs_are_found_by_state_queue_task_and_arguments(app: JobQueue) -> None:
    add, fail = app.tasks["add"], app.tasks["fail"]
    done = add.enqueue(1)
    dead = fail.enqueue(2)
    with app.worker(poll_s=0.05):
        done.wait(BOUND_S)
        dead.wait(BOUND_S)
    wait_for(lambda: done.status().state is State.DONE, "the job to be finalized")
    ready = add.enqueue(31)
    later = add.using(delay=3600).enqueue(32)
    cancelled = add.enqueue(33)
    cancelled.cancel()
    follows = add.using(after=ready).enqueue(34)

    def found(**wanted: object) -> list[int]:
        return [job.id for job in app.jobs.list(**wanted).jobs]  # type: ignore[arg-type]

    assert found(state="done") == [done.id]
    assert found(state="dead") == [dead.id]
    assert found(state=State.READY) == [ready.id]
    assert found(state="scheduled") == [later.id]
    assert found(state="cancelled") == [cancelled.id]
    assert found(state="waiting") == [follows.id]
    assert found(state="leased") == found(state="throttled") == found(state="ambiguous") == []
    assert found(queue="bad") == [dead.id]
    assert found(task="add", text="3") == [follows.id, cancelled.id, later.id, ready.id]
    assert found(text="%") == []
    (summary,) = app.jobs.list(state="done").jobs
    assert summary.worker is not None
    assert summary.acquired_at is not None
    assert summary.recorded_at is not None
    assert summary.created_at <= summary.acquired_at <= summary.recorded_at
    with pytest.raises(InvalidOption, match="use one of scheduled"):
        app.jobs.list(state="finished")
    with pytest.raises(InvalidOption, match="use 1 to"):
        app.jobs.list(limit=0)


def test_a_page_of_a_rare_kind_says_where_to_go_on(
    app: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobq.store.listing.JOBS_PER_WALK", 5)
    rare = app.tasks["fail"].enqueue(0)
    app.enqueue_many(app.tasks["add"].request(n) for n in range(12))

    pages, before = 0, None
    while True:
        page = app.jobs.list(queue="bad", before=before)
        pages += 1
        if page.jobs or page.before is None:
            break
        before = page.before
    assert [job.id for job in page.jobs] == [rare.id]
    assert pages == 3


def test_the_life_of_a_job_that_failed_twice(app: JobQueue) -> None:
    job = app.tasks["retried"].enqueue()
    with app.worker(poll_s=0.02):
        job.wait(BOUND_S)
        wait_for(lambda: job.status().state is State.DONE, "the job to be finalized")

    life = app.jobs.life(job.id)
    assert [one.what for one in life.happenings] == [
        *("enqueued", "claimed", "failed", "claimed", "failed", "claimed", "committed")
    ]
    assert [one.token for one in life.happenings] == [None, 1, 1, 2, 2, 3, 3]
    last = life.happenings[-1]
    assert last.details == f"finalized by {last.worker}"
    assert "ValueError: not yet" in life.happenings[2].details
    with pytest.raises(JobNotFound):
        app.jobs.life(job.id + 1)


def test_the_life_of_a_job_whose_first_worker_froze(site: Site, app: JobQueue) -> None:
    add = app.tasks["add"]
    job = add.enqueue(1)
    claim = app.database.store.claim(
        worker="frozen", queues=["sums"], tasks=["add"], limit=1, lease_s=0.5
    )
    (claimed,) = app.database.run(claim)
    leased = app.jobs.life(job.id)
    assert leased.lease is not None
    assert (leased.lease.worker, leased.lease.token) == ("frozen", 1)
    assert "lasts until" in leased.happenings[-1].details
    with app.worker(poll_s=0.02, reconcile_s=0.05):
        job.wait(BOUND_S)
    refused = app.database.run(app.database.store.complete([claimed.lease]))
    app.database.run(app.database.store.record_refusals("frozen", refused))

    life = app.jobs.life(job.id)
    told = [(one.what, one.token) for one in life.happenings]
    assert told[:3] == [("enqueued", None), ("claimed", 1), ("expired", 1)]
    assert told[-1] == ("refused", 1)
    assert ("committed", 2) in told
    assert "no heartbeat came" in life.happenings[2].details
    (expired,) = life.attempts
    assert expired.lease_expires_at is not None
    assert expired.lease_expires_at <= expired.ended_at
    assert "it changed nothing" in life.happenings[-1].details


def test_a_dead_job_and_one_in_its_backoff_are_run_again(app: JobQueue) -> None:
    fail = app.tasks["fail"]
    dead = fail.enqueue(1)
    with app.worker(poll_s=0.02):
        dead.wait(BOUND_S)
    later = fail.using(delay=3600).enqueue(2)
    ready = fail.enqueue(3)

    assert app.jobs.retry(dead.id)
    assert app.jobs.retry(later.id)
    assert not app.jobs.retry(ready.id)
    with pytest.raises(JobNotFound):
        app.jobs.retry(ready.id + 1)
    with app.worker(poll_s=0.02):
        for job in (dead, later, ready):
            job.wait(BOUND_S)
    assert len(app.attempts(dead.id)) == 3


def test_workers_say_what_they_serve_and_whether_they_are_there(site: Site, app: JobQueue) -> None:
    with app.worker(queues=["sums"], concurrency=3, lease_s=5.0) as worker:
        wait_for(lambda: bool(app.workers.list()), "the worker to be seen")
        (alive,) = app.workers.list()
        assert (alive.id, alive.state, alive.leases) == (worker.id, "alive", 0)
        assert alive.about is not None
        assert (alive.about.queues, alive.about.concurrency) == (["sums"], 3)
        assert (alive.about.lease_s, alive.about.tasks) == (5.0, 3)
    (stopped,) = app.workers.list()
    assert stopped.state == "stopped"
    assert stopped.stopped_at is not None

    table = "jobq_workers" if site.engine.dialect.name == "sqlite" else "jobq.workers"
    past = "1" if site.engine.dialect.name == "sqlite" else "'2000-01-01'"
    site.sql(f"UPDATE {table} SET stopped_at = NULL, seen_at = {past}")
    assert app.workers.list()[0].state == "lost"


def test_how_it_went_lately(app: JobQueue) -> None:
    add, fail = app.tasks["add"], app.tasks["fail"]
    jobs = [*(add.enqueue(n) for n in range(5)), fail.enqueue(1)]
    with app.worker(poll_s=0.02):
        for job in jobs:
            job.wait(BOUND_S)
    wait_for(lambda: jobs[0].status().state is State.DONE, "the job to be finalized")
    add.enqueue(6)
    add.using(delay=60).enqueue(7)

    recent = app.jobs.recent(minutes=5)

    assert len(recent.minutes) == 6
    assert sum(minute.enqueued for minute in recent.minutes) == 8
    assert sum(minute.committed for minute in recent.minutes) == 5
    assert sum(minute.dead for minute in recent.minutes) == 1
    assert (recent.counts[State.READY], recent.counts[State.SCHEDULED]) == (1, 1)
    assert recent.counts[State.DEAD] == 1
    assert recent.depths[-1] == 2
    assert recent.depths[0] == 0
    busy = [minute for minute in recent.minutes if minute.committed]
    for minute in busy:
        (waited, waited_95), (ran, ran_95) = minute.waited_s, minute.ran_s
        assert waited is not None
        assert waited_95 is not None
        assert ran is not None
        assert ran_95 is not None
        assert 0 <= waited <= waited_95 < BOUND_S
        assert 0 <= ran <= ran_95 < BOUND_S
    assert recent.minutes[-1].at <= recent.at < recent.minutes[-1].at + timedelta(minutes=1)


def test_what_is_done_by_hand_is_kept_with_who_did_it(app: JobQueue) -> None:
    add, fail = app.tasks["add"], app.tasks["fail"]
    dead, job = fail.enqueue(1), add.using(delay=3600).enqueue(1)
    with app.worker(poll_s=0.02):
        dead.wait(BOUND_S)
    app.queues.pause("mail")
    with app.acting_as("ada"):
        app.queues.pause("sums", until=datetime(2100, 1, 1, tzinfo=UTC))
        app.queues.resume("sums")
        app.dead.retry_all()
        job.cancel()
        job.cancel()
    app.queues.resume("mail")

    told = [(one.actor, one.action, one.subject, one.details) for one in app.audit.list()]
    assert told == [
        ("ada", "job.cancel", str(job.id), "(it changed nothing)"),
        ("ada", "job.cancel", str(job.id), None),
        ("ada", "dead.retry", "1 jobs", f"[{dead.id}]"),
        ("ada", "queue.resume", "sums", None),
        ("ada", "queue.pause", "sums", "until 2100-01-01T00:00:00+00:00"),
    ]
    (older,) = app.audit.list(before=app.audit.list()[3].done_at, limit=5)
    assert older.action == "queue.pause"


def test_an_action_that_fails_leaves_no_account(app: JobQueue) -> None:
    with app.acting_as("ada"), pytest.raises(JobNotFound):
        app.cancel(12345)
    assert app.audit.list() == []

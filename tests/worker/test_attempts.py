"""What becomes of an attempt: failed, refused, cancelled, left alone."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from jobq import AttemptEnd, Job, JobQueue, LeaseLost, Retry, State
from tests.worker.charges import ledger
from tests.worker.conftest import Site, wait_for

QUICK = Retry(base_s=0.05, cap_s=0.1)


@pytest.fixture
def app(site: Site) -> JobQueue:
    return JobQueue(site.url)


def test_an_async_effect_is_applied(site: Site, app: JobQueue) -> None:
    @app.task(name="charge")
    async def charge(db: AsyncSession, job: Job) -> None:
        await db.execute(insert(ledger).values(job_id=job.id, charged_by="async"))

    job = charge.enqueue()
    with app.worker(poll_s=0.05):
        wait_for(lambda: job.status().state is State.DONE, "the job to be done", site)
    app.close()
    assert site.charged() == [job.id]


def test_what_a_handler_raises_is_kept_and_the_job_ends_dead(site: Site, app: JobQueue) -> None:
    @app.task(name="boom", max_attempts=2, retry=QUICK)
    def boom() -> None:
        raise ValueError("no \x00 money")

    @app.task(name="leave", max_attempts=1)
    def leave() -> None:
        raise SystemExit(3)

    jobs = [boom.enqueue(), leave.enqueue()]
    with app.worker(poll_s=0.05):
        wait_for(lambda: {j.status().state for j in jobs} == {State.DEAD}, "burial", site)
    attempts, (left,) = (app.attempts(job.id) for job in jobs)
    app.close()

    assert [attempt.end for attempt in attempts] == [AttemptEnd.FAILED] * 2
    error = attempts[0].error
    assert error is not None
    assert (error.type, error.message) == ("ValueError", "no \N{SYMBOL FOR NULL} money")
    assert error.traceback.splitlines()[1].endswith("in boom"), "it begins where the handler does"
    assert left.error is not None
    assert left.error.type == "SystemExit"


def test_a_task_of_another_version_is_left_alone(
    site: Site, app: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    newer = JobQueue(site.url)

    @newer.task(name="from_tomorrow")
    def from_tomorrow() -> None: ...

    @app.task(name="known")
    def known() -> None: ...

    unknown, done = from_tomorrow.enqueue(), known.enqueue()
    with app.worker(poll_s=0.05):
        wait_for(lambda: done.status().state is State.DONE, "the known job to be done", site)
        wait_for(lambda: "from_tomorrow" in caplog.text, "the warning")
    status = unknown.status()
    app.close()
    newer.close()

    assert (status.state, status.attempts) == (State.READY, 0)
    assert caplog.text.count("from_tomorrow") == 1


def test_a_cancelled_job_is_stopped_and_changes_nothing(site: Site, app: JobQueue) -> None:
    started, stopped = threading.Event(), threading.Event()

    @app.task(name="long")
    async def long(job: Job) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.set()
            raise

    job = long.enqueue()
    with app.worker(poll_s=0.05, lease_s=0.9):
        wait_for(started.is_set, "the handler to start")
        assert job.cancel() is True
        wait_for(stopped.is_set, "the handler to be cancelled")
        wait_for(lambda: job.status().worker is None, "the lease to go", site)
    state = job.status().state
    app.close()
    assert state is State.CANCELLED


def test_a_lost_lease_is_told_and_a_swallowed_refusal_is_still_one(
    site: Site, app: JobQueue
) -> None:
    started = threading.Event()
    seen: list[str] = []

    @app.task(name="slow", retry=QUICK)
    def slow(job: Job) -> None:
        if job.attempt > 1:
            return
        started.set()
        wait_for(lambda: job.lease_lost, "the handler to be told")
        try:
            with job.commit():
                seen.append("entered")
        except BaseException as refusal:  # noqa: BLE001 - what a handler should not do
            seen.append(type(refusal).__name__)

    job = slow.enqueue()
    with app.worker(poll_s=0.05, lease_s=0.9, concurrency=2):
        wait_for(started.is_set, "the handler to start")
        # In one statement, between two heartbeats: the lease goes, the job waits again.
        table = "jobq.leases" if site.engine.dialect.name == "postgresql" else "jobq_leases"
        site.sql(f"UPDATE {table} SET token = token + 1000 WHERE job_id = {job.id}")
        wait_for(lambda: seen, "the handler to be refused")
        wait_for(lambda: site.rows("refusals"), "the refusal to be kept")
    app.close()

    assert seen == [LeaseLost.__name__]
    assert {row["reason"] for row in site.rows("refusals")} == {"lease_lost"}
    assert site.charged() == []


def test_a_handler_that_blocks_the_loop_keeps_its_lease(site: Site, app: JobQueue) -> None:
    """Heartbeats come from a thread: the lease is extended while nothing else runs."""
    extended = threading.Event()

    @app.task(name="stall")
    async def stall(job: Job) -> None:
        (before,) = site.rows("leases")

        def is_past_its_first_end() -> bool:
            (now,) = site.rows("leases")
            return bool((now["lease_expires_at"] - before["lease_expires_at"]).total_seconds() > 1)

        wait_for(is_past_its_first_end, "the lease to outlive its first end")
        extended.set()

    job = stall.enqueue()
    with app.worker(poll_s=0.05, lease_s=0.9):
        wait_for(lambda: job.status().state is State.DONE, "the job to be done", site)
    attempts = job.status().attempts
    app.close()
    assert extended.is_set()
    assert attempts == 1


def test_a_handler_that_outlives_its_worker_ends_without_a_word(site: Site, app: JobQueue) -> None:
    """What a thread raises fails the test."""
    has_begun, may_end = threading.Event(), threading.Event()

    @app.task(name="stubborn")
    def stubborn() -> None:
        has_begun.set()
        may_end.wait(60)

    stubborn.enqueue()
    with app.worker(poll_s=0.05, grace_s=0):
        wait_for(has_begun.is_set, "the handler to begin", site)
    threads = [one for one in threading.enumerate() if one.name.startswith("jobq-handler")]
    assert threads
    may_end.set()
    for thread in threads:
        thread.join(60)
    app.close()

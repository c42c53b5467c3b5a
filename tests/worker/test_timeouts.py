"""An attempt that takes longer than it may has failed, and commits nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert
from sqlalchemy.ext.asyncio import AsyncSession

from jobq import (
    InvalidOption,
    Job,
    JobFailed,
    JobHandle,
    JobQueue,
    On,
    Retry,
    State,
    TimedOut,
)
from tests.worker import cpu
from tests.worker.charges import ledger
from tests.worker.conftest import BOUND_S, Site


@pytest.fixture
def app(site: Site) -> Iterator[JobQueue]:
    app = JobQueue(site.url)
    yield app
    app.close()


def assert_timed_out(app: JobQueue, job: JobHandle) -> None:
    with pytest.raises(JobFailed, match="was not done after"):
        job.result(BOUND_S)
    assert [one.error.type for one in app.attempts(job.id) if one.error] == ["jobq.TimedOut"]


def test_a_coroutine_is_cancelled_and_rolled_back(site: Site, app: JobQueue) -> None:
    is_cancelled = threading.Event()

    @app.task(max_attempts=1, timeout_s=0.2)
    async def slow(db: AsyncSession, job: Job) -> None:
        await db.execute(insert(ledger).values(job_id=job.id, charged_by="late"))
        try:
            await asyncio.sleep(BOUND_S)
        except asyncio.CancelledError:
            is_cancelled.set()
            raise

    job = slow.enqueue()
    with app.worker(poll_s=0.05):
        assert_timed_out(app, job)
    assert is_cancelled.is_set()
    assert site.charged() == []


def test_a_handlers_own_timeout_error_is_its_own(app: JobQueue) -> None:
    @app.task(max_attempts=1, timeout_s=BOUND_S)
    async def fails() -> None:
        raise TimeoutError("a service's")

    job = fails.enqueue()
    with app.worker(poll_s=0.05), pytest.raises(JobFailed, match="a service's"):
        job.result(BOUND_S)


@pytest.mark.parametrize("kind", ["effect", "boundary", "late boundary", "none"])
def test_a_thread_is_told_and_commits_nothing(site: Site, app: JobQueue, kind: str) -> None:
    def take_too_long(job: Job) -> None:
        deadline_s = time.monotonic() + BOUND_S
        while not job.must_stop:
            assert time.monotonic() < deadline_s, "it was not told"
            time.sleep(0.01)

    def charge(db: Connection, job: Job) -> None:
        db.execute(insert(ledger).values(job_id=job.id, charged_by=kind))

    @app.task(name="effect", max_attempts=1, timeout_s=0.1)
    def effect(db: Connection, job: Job) -> None:
        charge(db, job)
        take_too_long(job)

    @app.task(name="boundary", max_attempts=1, timeout_s=0.1)
    def boundary(job: Job) -> None:
        with job.commit(Connection) as db:
            charge(db, job)
            take_too_long(job)

    @app.task(name="late boundary", max_attempts=1, timeout_s=0.1)
    def late_boundary(job: Job) -> None:
        take_too_long(job)
        with job.commit(Connection) as db:
            charge(db, job)

    @app.task(name="none", max_attempts=1, timeout_s=0.1)
    def none(job: Job) -> None:
        take_too_long(job)

    job = app.tasks[kind].enqueue()
    with app.worker(poll_s=0.05):
        assert_timed_out(app, job)
    assert site.charged() == []


def test_in_time_is_in_time(app: JobQueue) -> None:
    @app.task(timeout_s=BOUND_S)
    def quick(job: Job) -> bool:
        return job.must_stop

    @app.task(timeout_s=BOUND_S)
    async def quick_too(job: Job) -> bool:
        await asyncio.sleep(0)
        return job.must_stop

    jobs = [quick.enqueue(), quick_too.enqueue()]
    with app.worker(poll_s=0.05):
        assert [job.result(BOUND_S) for job in jobs] == [False, False]


def test_a_rule_may_decide_about_timeouts(app: JobQueue) -> None:
    @app.task(max_attempts=9, timeout_s=0.1, retry=Retry(rules=[On(TimedOut, bury=True)]))
    async def slow() -> None:
        await asyncio.sleep(BOUND_S)

    job = slow.enqueue()
    with app.worker(poll_s=0.05):
        assert job.wait(BOUND_S).state is State.DEAD
    assert job.status().attempts == 1


def test_a_process_is_killed(site: Site, tmp_path: Path) -> None:
    app = cpu.app
    app._given_url = site.url
    app.close()
    cpu.spin.timeout_s = 3.0
    try:
        job = cpu.spin.using(max_attempts=1).enqueue(mark=str(tmp_path / "mark"))
        with app.worker(poll_s=0.05, concurrency=1):
            assert_timed_out(app, job)
    finally:
        cpu.spin.timeout_s = None
        app.close()


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan")])
def test_a_timeout_that_is_none_is_refused(app: JobQueue, timeout_s: float) -> None:
    def plain() -> None: ...

    with pytest.raises(InvalidOption, match="use seconds above 0"):
        app.task(timeout_s=timeout_s)(plain)

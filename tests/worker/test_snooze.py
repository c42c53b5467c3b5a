"""A handler that asks for another time gets it, and spends no attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from jobq import AttemptEnd, InvalidOption, Job, JobQueue, Retry, Snooze, State
from tests.worker.charges import ledger
from tests.worker.conftest import Site, wait_for

QUICK = Retry(base_s=0.05, cap_s=0.1)


@pytest.fixture
def app(site: Site) -> JobQueue:
    return JobQueue(site.url)


def test_snoozing_spends_no_attempt_and_rolls_its_effect_back(site: Site, app: JobQueue) -> None:
    seen: list[int] = []

    @app.task(name="charge", max_attempts=1)
    def charge(db: Connection, job: Job) -> None:
        seen.append(job.attempt)
        db.execute(insert(ledger).values(job_id=job.id, charged_by=f"time {len(seen)}"))
        if len(seen) < 4:
            raise Snooze(timedelta(milliseconds=20))

    job = charge.enqueue()
    with app.worker(poll_s=0.05):
        wait_for(lambda: job.status().state is State.DONE, "the job to be done", site)
    history, status = app.attempts(job.id), job.status()
    app.close()

    assert seen == [1, 1, 1, 1]
    assert status.attempts == 1
    assert [(one.attempt, one.end, one.error) for one in history] == [
        (1, AttemptEnd.SNOOZED, None)
    ] * 3
    assert site.charged() == [job.id]


def test_a_snoozed_job_waits_for_its_time_and_can_be_cancelled(site: Site, app: JobQueue) -> None:
    @app.task(name="later", max_attempts=1)
    async def later() -> None:
        await asyncio.sleep(0)
        raise Snooze(3600)

    job = later.enqueue()
    with app.worker(poll_s=0.05):
        wait_for(lambda: job.status().state is State.SCHEDULED, "the job to wait", site)
    status = job.status()
    assert status.attempts == 0
    assert status.due_at is not None
    assert timedelta(minutes=59) < status.due_at - status.created_at < timedelta(minutes=62)
    assert job.cancel()
    assert job.status().attempts == 0
    app.close()


def test_failures_around_a_snooze_count_as_ever(site: Site, app: JobQueue) -> None:
    acts: list[Callable[[], Any]] = [_fail, _snooze, _fail, _snooze, _fail]

    @app.task(name="moody", max_attempts=3, retry=QUICK)
    def moody() -> None:
        acts.pop(0)()

    job = moody.enqueue()
    with app.worker(poll_s=0.05):
        wait_for(lambda: job.status().state is State.DEAD, "burial", site)
    history, status = app.attempts(job.id), job.status()
    app.close()
    failed, snoozed = AttemptEnd.FAILED, AttemptEnd.SNOOZED
    assert [(one.attempt, one.end) for one in history] == [
        (1, failed),
        (2, snoozed),
        (2, failed),
        (3, snoozed),
        (3, failed),
    ]
    assert status.attempts == 3


def test_a_snooze_after_the_commit_is_too_late(
    site: Site, app: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="late")
    def late(job: Job) -> None:
        with job.commit(Connection) as db:
            db.execute(insert(ledger).values(job_id=job.id, charged_by="once"))
        raise Snooze(0)

    job = late.enqueue()
    with app.worker(poll_s=0.05):
        wait_for(lambda: job.status().state is State.DONE, "the job to be done", site)
    app.close()
    assert site.charged() == [job.id]
    assert "committed, and its handler wanted to be snoozed afterwards" in caplog.text


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), timedelta(seconds=-1)])
def test_a_delay_that_is_none_is_refused(delay: Any) -> None:
    with pytest.raises(InvalidOption, match="a delay is a finite time from now"):
        Snooze(delay)


def _fail() -> None:
    raise ValueError("no")


def _snooze() -> None:
    raise Snooze(0.01)

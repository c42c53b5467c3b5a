"""What a worker makes of an error follows the rules of the task's retry policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from jobq import AttemptEnd, Bury, InvalidOption, Job, JobQueue, On, Retry, State
from tests.worker.charges import ledger
from tests.worker.conftest import Site, wait_for

LATER = Retry(base_s=3600, cap_s=1e6)


class RateLimited(Exception):
    def __init__(self, retry_after_s: float | None) -> None:
        super().__init__("too many")
        self.retry_after_s = retry_after_s


RETRY = Retry(
    base_s=0,
    rules=[
        On(ValueError, bury=True),
        On((TimeoutError, ConnectionError), delay_s=3600, base_s=0),
        On(RateLimited, snooze=lambda error: error.retry_after_s),
    ],
)


@pytest.fixture
def app(site: Site) -> Iterator[JobQueue]:
    app = JobQueue(site.url)
    yield app
    app.close()


def raiser(app: JobQueue, error: Exception, **options: Any) -> Any:
    @app.task(name="raiser", **options)
    async def handler() -> None:
        raise error

    return handler


def ends(app: JobQueue, job_id: int) -> list[tuple[int, AttemptEnd]]:
    return [(one.attempt, one.end) for one in app.attempts(job_id)]


def test_a_rule_buries_at_once(site: Site, app: JobQueue) -> None:
    job = raiser(app, UnicodeError("no such customer"), retry=RETRY).enqueue()
    with app.worker(poll_s=0.05):
        wait_for(lambda: job.status().state is State.DEAD, "burial", site)

    (attempt,) = app.attempts(job.id)
    assert attempt.error is not None
    assert (attempt.error.type, attempt.error.message) == ("UnicodeError", "no such customer")


def test_a_rule_gives_another_delay(site: Site, app: JobQueue) -> None:
    job = raiser(app, ConnectionResetError(), retry=RETRY).enqueue()
    with app.worker(poll_s=0.05):
        wait_for(lambda: job.status().state is State.SCHEDULED, "the failure", site)

    status, (attempt,) = job.status(), app.attempts(job.id)
    assert status.due_at is not None
    assert (status.due_at - attempt.ended_at).total_seconds() == pytest.approx(3600, abs=1)
    assert (status.attempts, attempt.end) == (1, AttemptEnd.FAILED)


def test_a_rule_snoozes_and_spends_no_attempt(site: Site, app: JobQueue) -> None:
    job = raiser(app, RateLimited(3600), retry=RETRY, max_attempts=1).enqueue()
    with app.worker(poll_s=0.05):
        wait_for(lambda: job.status().state is State.SCHEDULED, "the snooze", site)

    status, (attempt,) = job.status(), app.attempts(job.id)
    assert status.due_at is not None
    assert (status.due_at - attempt.ended_at).total_seconds() == pytest.approx(3600, abs=1)
    assert (status.attempts, attempt.end) == (0, AttemptEnd.SNOOZED)


def test_a_snooze_that_cannot_tell_a_time_leaves_an_ordinary_failure(
    site: Site, app: JobQueue
) -> None:
    job = raiser(app, RateLimited(None), retry=RETRY, max_attempts=2).enqueue()
    with app.worker(poll_s=0.05):
        wait_for(lambda: job.status().state is State.DEAD, "burial", site)

    assert ends(app, job.id) == [(1, AttemptEnd.FAILED), (2, AttemptEnd.FAILED)]


def test_a_snooze_that_raises_is_told_and_leaves_an_ordinary_failure(
    site: Site, app: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    retry = Retry(base_s=0, rules=[On(RateLimited, snooze=lambda error: error.misspelt)])
    job = raiser(app, RateLimited(5), retry=retry, max_attempts=1).enqueue()
    with app.worker(poll_s=0.05):
        wait_for(lambda: job.status().state is State.DEAD, "burial", site)

    assert ends(app, job.id) == [(1, AttemptEnd.FAILED)]
    assert "misspelt" in caplog.text


def test_a_handler_buries_its_own_job(site: Site, app: JobQueue) -> None:
    @app.task(name="charge", retry=LATER)
    def charge(db: Connection, job: Job) -> None:
        db.execute(insert(ledger).values(job_id=job.id, charged_by="once"))
        raise Bury("the customer is gone")

    job = charge.enqueue()
    with app.worker(poll_s=0.05):
        wait_for(lambda: job.status().state is State.DEAD, "burial", site)

    (attempt,) = app.attempts(job.id)
    assert attempt.error is not None
    assert (attempt.error.type, attempt.error.message) == ("jobq.Bury", "the customer is gone")
    assert attempt.end is AttemptEnd.FAILED
    assert site.charged() == []


def test_what_would_repeat_a_begun_attempt_is_refused(app: JobQueue) -> None:
    """Only the handler knows whether anything was done outside before it raised."""
    with pytest.raises(InvalidOption, match="raise Snooze in the handler"):
        raiser(app, RateLimited(1), retry=RETRY, outside_effects="at_most_once")

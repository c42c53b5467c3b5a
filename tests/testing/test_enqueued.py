"""What waits in a queue, and assertions about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from jobq import InvalidTask, JobQueue, Limit, State
from jobq.testing import assert_enqueued, assert_not_enqueued, enqueued, run_one

KEY = UUID(int=7)


def remind(customer: str, at: datetime | None = None, copies: int = 1) -> None: ...


def charge(order_id: int, key: UUID = KEY) -> None: ...


def test_jobs_are_listed_with_their_arguments_wherever_they_wait(app: JobQueue) -> None:
    reminding = app.task(remind)
    charging = app.task(queue="billing", limits=[Limit("bank", concurrency=1)])(charge)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    later = reminding.using(delay=60).enqueue("Ada", at)
    limited = charging.enqueue(order_id=7)
    now = reminding.using(priority=-1).enqueue(customer="Bob")

    found = enqueued(app)

    assert [job.id for job in found] == [later.id, limited.id, now.id]
    assert [job.state for job in found] == [State.SCHEDULED, State.THROTTLED, State.READY]
    assert [job.queue for job in found] == ["default", "billing", "default"]
    assert found[0].arguments == {"customer": "Ada", "at": at, "copies": 1}
    assert found[1].arguments == {"order_id": 7, "key": KEY}
    due_ats = [job.due_at for job in found if job.due_at]
    assert due_ats[0] - due_ats[2] > timedelta(seconds=59)
    assert found[2].priority == -1
    assert enqueued(app, charging) == [found[1]]
    assert enqueued(app, remind.__module__ + ".remind") == [found[0], found[2]]


def test_a_job_that_ended_does_not_wait(app: JobQueue) -> None:
    app.task(remind).enqueue("Ada")
    run_one(app)

    assert enqueued(app) == []


def test_a_job_of_a_task_that_the_app_has_not_is_listed_as_json(
    app: JobQueue, database_url: str
) -> None:
    other = JobQueue(database_url)
    other.task(charge).enqueue(order_id=7, key=KEY)
    other.close()

    (job,) = enqueued(app)

    assert job.arguments == {"order_id": 7, "key": str(KEY)}


def test_an_assertion_returns_the_first_job_that_matches(app: JobQueue) -> None:
    reminding = app.task(remind)
    reminding.enqueue("Bob")
    jobs = [reminding.enqueue("Ada", copies=copies) for copies in (2, 3)]

    assert assert_enqueued(app, reminding, customer="Ada").id == jobs[0].id
    assert assert_enqueued(app, reminding, customer="Ada", copies=3).id == jobs[1].id
    assert assert_enqueued(app, reminding, customer="Bob", copies=1).task == reminding.name
    assert_not_enqueued(app, reminding, customer="Eve")


def test_a_failed_assertion_lists_what_is_there(app: JobQueue) -> None:
    reminding, charging = app.task(remind), app.task(charge)
    reminding.using(delay=60).enqueue("Ada")

    with pytest.raises(AssertionError) as missing:
        assert_enqueued(app, reminding, customer="Eve")
    with pytest.raises(AssertionError) as unwanted:
        assert_not_enqueued(app, reminding)
    assert_not_enqueued(app, charging)

    wanted, listed = str(missing.value).split("\n", 1)
    assert wanted == (
        "no job waits for tests.testing.test_enqueued.remind(customer='Eve'); 1 job waits:"
    )
    assert listed.startswith(
        "  job 1, scheduled: tests.testing.test_enqueued.remind("
        "customer='Ada', at=None, copies=1) in queue 'default', due at 20"
    )
    assert str(unwanted.value).splitlines() == [
        "1 job waits for tests.testing.test_enqueued.remind():",
        listed,
    ]


def test_a_failed_assertion_says_that_nothing_is_there(app: JobQueue) -> None:
    with pytest.raises(AssertionError, match=r"remind\(\); no jobs wait$"):
        assert_enqueued(app, app.task(remind))


def test_a_misspelt_argument_does_not_pass_as_not_enqueued(app: JobQueue) -> None:
    reminding = app.task(remind)
    reminding.enqueue("Ada")

    with pytest.raises(InvalidTask, match="custommer"):
        assert_not_enqueued(app, reminding, custommer="Ada")

"""Enqueueing in a transaction of its own: all of it or nothing, and in the order given."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from jobq import (
    DatabaseUnavailable,
    InvalidDatabaseURL,
    JobNotFound,
    JobQueue,
    NotMigrated,
    State,
    Task,
)
from jobq import schema as migrations
from jobq.client import COPY_FROM_JOBS
from tests.client.conftest import committed_jobs


def charge(order_id: int, cents: int = 0) -> None: ...


def refund(order_id: int) -> None: ...


def note(text: str) -> None: ...


@pytest.fixture
def task(app: JobQueue) -> Task[..., Any]:
    return app.task(charge)


def test_an_acknowledged_job_is_committed(task: Task[..., Any], database_url: str) -> None:
    job = task.enqueue(7, cents=999)
    assert committed_jobs(database_url) == [job.id]
    status = job.status()
    assert status.task == "tests.client.test_enqueue.charge"
    assert json.loads(status.args) == {"order_id": 7, "cents": 999}
    assert (status.state, status.worker, status.recorded_at) == (State.READY, None, None)


async def test_on_an_event_loop(async_app: JobQueue, database_url: str) -> None:
    task = async_app.task(charge)
    one = await task.aenqueue(1)
    two, three = await async_app.aenqueue_many([task.request(2), task.request(3)])
    assert committed_jobs(database_url) == [one.id, two.id, three.id]


def test_two_event_loops_one_after_the_other(app: JobQueue, database_url: str) -> None:
    """An asyncio pool belongs to its loop; the app does not."""
    task = app.task(charge)

    async def enqueue() -> None:
        await task.aenqueue(1)
        await app.aclose()

    asyncio.run(enqueue())
    asyncio.run(enqueue())
    assert len(committed_jobs(database_url)) == 2


# More than one statement takes, and so many that they come in by COPY.
by_any_way = pytest.mark.parametrize("count", [2_500, COPY_FROM_JOBS])


@by_any_way
def test_many_keep_their_order(app: JobQueue, database_url: str, count: int) -> None:
    """Of several tasks, from a generator."""
    tasks: list[Task[..., Any]] = [app.task(charge), app.task(refund)]
    jobs = app.enqueue_many(tasks[number % 2].request(number) for number in range(count))

    ids = [job.id for job in jobs]
    assert ids == sorted(ids)
    assert committed_jobs(database_url) == ids
    for number in (0, 1, 999, 1_000, count - 1):
        status = jobs[number].status()
        assert json.loads(status.args) == {"order_id": number}
        assert status.task == tasks[number % 2].name


@by_any_way
def test_many_are_all_or_none(app: JobQueue, database_url: str, count: int) -> None:
    """The request that the database refuses is in the last statement of the transaction."""
    task = app.task(charge)
    good = task.request(1)
    bad = good._replace(max_attempts=0)  # past every check but the table's own
    with pytest.raises(Exception, match="max_attempts"):
        app.enqueue_many([good] * count + [bad] + [good] * 10)
    assert committed_jobs(database_url) == []


@by_any_way
def test_many_arrive_as_they_are(app: JobQueue, count: int) -> None:
    task = app.task(note)
    odd = "tab\t, line\n, backslash \\. \\N, \N{SNOWMAN}, '\"}"
    when = datetime(2100, 1, 1, 12, tzinfo=UTC)
    requests = [
        task.using(queue="slow", priority=-3, max_attempts=9).request(odd),
        task.using(run_at=when).request("then"),
        task.using(delay=3_600).request("in an hour"),
    ]
    jobs = app.enqueue_many([*requests, *[task.request("now")] * count])

    first, then, later, *_, last = [jobs[n].status() for n in (0, 1, 2, -1)]
    assert json.loads(first.args) == {"text": odd}
    assert (first.queue, first.priority, first.max_attempts) == ("slow", -3, 9)
    assert (then.state, then.due_at) == (State.SCHEDULED, when)
    assert later.state is State.SCHEDULED
    assert (last.state, json.loads(last.args)) == (State.READY, {"text": "now"})


def test_connections_that_the_server_has_ended_are_not_used(
    app: JobQueue, database_url: str
) -> None:
    """A restart, say. Nothing was sent on them, so nothing is in doubt."""
    if database_url.startswith("sqlite"):
        pytest.skip("there is no server")
    task = app.task(charge)
    before = task.enqueue(1)
    with psycopg.connect(database_url) as postgres:
        postgres.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    after = task.enqueue(2)
    assert committed_jobs(database_url) == [before.id, after.id]


def test_many_may_be_none(app: JobQueue, database_url: str) -> None:
    assert app.enqueue_many([]) == []
    assert asyncio.run(_none(app)) == []
    assert committed_jobs(database_url) == []


async def _none(app: JobQueue) -> list[Any]:
    try:
        return list(await app.aenqueue_many([]))
    finally:
        await app.aclose()


def test_many_threads_share_an_app(database_url: str) -> None:
    """More of them than it has connections, all at its first use."""
    app = JobQueue(database_url, max_connections=2)
    task = app.task(charge)
    with ThreadPoolExecutor(8) as threads:
        jobs = list(threads.map(task.enqueue, range(40)))
    assert sorted(job.id for job in jobs) == committed_jobs(database_url)
    app.close()


def test_an_app_that_was_closed_opens_again(task: Task[..., Any], database_url: str) -> None:
    first = task.enqueue(1)
    task.app.close()
    task.app.close()
    second = task.enqueue(2)
    assert committed_jobs(database_url) == [first.id, second.id]


def test_a_job_nobody_enqueued(app: JobQueue) -> None:
    for call in (app.status, app.cancel):
        with pytest.raises(JobNotFound, match="there is no job 4711"):
            call(4711)
    assert app.attempts(4711) == []


def test_a_job_can_be_cancelled_before_it_runs(task: Task[..., Any]) -> None:
    for job in (task.enqueue(1), task.using(delay=60).enqueue(1)):
        assert job.cancel()
        assert not job.cancel(), "its fate is sealed"
        assert job.status().state is State.CANCELLED


class TestTheDatabase:
    def test_is_taken_from_the_environment(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("JOBQ_DATABASE_URL", database_url)
        app = JobQueue()
        job = app.task(charge).enqueue(1)
        assert committed_jobs(database_url) == [job.id]
        app.close()

    def test_may_have_jobq_in_another_schema(
        self, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        migrations.upgrade(empty_postgres_url, schema="background")
        monkeypatch.setenv("JOBQ_SCHEMA", "background")
        for app in (JobQueue(empty_postgres_url), JobQueue(empty_postgres_url, schema="jobq")):
            task = app.task(charge)
            if app.schema == "jobq":
                with pytest.raises(NotMigrated):
                    task.enqueue(1)
            else:
                assert task.enqueue(1).status().state is State.READY
            app.close()

    def test_has_to_be_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("JOBQ_DATABASE_URL", raising=False)
        task = JobQueue().task(charge)  # a module may be imported without one
        with pytest.raises(InvalidDatabaseURL, match="set JOBQ_DATABASE_URL"):
            task.enqueue(1)

    def test_has_to_be_migrated(self, empty_postgres_url: str) -> None:
        app = JobQueue(empty_postgres_url)
        task = app.task(charge)
        with pytest.raises(NotMigrated, match="run `jobq upgrade`"):
            task.enqueue(1)
        migrations.upgrade(empty_postgres_url)
        task.enqueue(1)  # the same app, once its database is as it should be
        app.close()

    def test_has_to_stay_migrated(self, task: Task[..., Any], database_url: str) -> None:
        task.enqueue(1)
        migrations.downgrade(database_url)
        with pytest.raises(NotMigrated, match="run `jobq upgrade`"):
            task.enqueue(1)

    def test_has_to_be_there(self, nowhere: JobQueue) -> None:
        task = nowhere.task(charge)
        with pytest.raises(DatabaseUnavailable, match="refused"):
            task.enqueue(1)
        with pytest.raises(DatabaseUnavailable, match="refused"):
            asyncio.run(task.aenqueue(1))

"""Enqueueing in the caller's transaction: the job exists if and only if that commits."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from jobq import (
    InvalidArguments,
    JobHandle,
    JobNotFound,
    JobQueue,
    NotMigrated,
    State,
    Task,
    UnsupportedConnection,
)
from jobq.client import COPY_FROM_JOBS
from jobq.database.url import parse_url
from tests.client.callers import on_every_kind, opened, settled
from tests.client.conftest import committed_jobs


def charge(order_id: int, cents: int = 0) -> None: ...


@pytest.fixture
def task(app: JobQueue) -> Task[..., Any]:
    return app.task(charge)


@on_every_kind
async def test_a_job_exists_when_the_transaction_commits(
    async_app: JobQueue, database_url: str, kind: str
) -> None:
    task: Task[..., Any] = async_app.task(charge)
    async with opened(database_url, kind) as connection:
        one = await settled(task.enqueue_in(connection, 1, cents=5))
        later = task.using(run_at=datetime(2100, 1, 1, tzinfo=UTC), priority=-5, queue="later")
        two, three = await settled(
            async_app.enqueue_many_in(connection, [later.request(2), task.request(3)])
        )
        assert committed_jobs(database_url) == [], "nobody sees it before"
        await settled(connection.commit())

    assert committed_jobs(database_url) == [one.id, two.id, three.id]
    assert one.status().args == '{"order_id":1,"cents":5}'
    status = two.status()
    assert (status.state, status.queue, status.priority) == (State.SCHEDULED, "later", -5)
    assert status.due_at == datetime(2100, 1, 1, tzinfo=UTC)


@on_every_kind
async def test_a_job_does_not_exist_when_the_transaction_rolls_back(
    async_app: JobQueue, database_url: str, kind: str
) -> None:
    task: Task[..., Any] = async_app.task(charge)
    async with opened(database_url, kind) as connection:
        gone = await settled(task.enqueue_in(connection, 1))
        await settled(connection.rollback())
        kept = await settled(task.enqueue_in(connection, 2))
        await settled(connection.commit())

    assert committed_jobs(database_url) == [kept.id]
    if kept.id != gone.id:  # PostgreSQL's sequences do not roll back
        with pytest.raises(JobNotFound):
            gone.status()


@on_every_kind
async def test_a_refused_job_leaves_the_transaction_as_it_was(
    async_app: JobQueue, database_url: str, kind: str
) -> None:
    task: Task[..., Any] = async_app.task(charge)
    async with opened(database_url, kind) as connection:
        await settled(task.enqueue_in(connection, 1))
        with pytest.raises(InvalidArguments):
            await settled(task.enqueue_in(connection, "two"))
        await settled(task.enqueue_in(connection, 3))
        assert await settled(async_app.enqueue_many_in(connection, [])) == []
        await settled(connection.commit())
    assert len(committed_jobs(database_url)) == 2


@on_every_kind
@pytest.mark.parametrize("count", [1_001, COPY_FROM_JOBS])
async def test_many_more_than_a_statement_takes(
    async_app: JobQueue, database_url: str, kind: str, count: int
) -> None:
    task: Task[..., Any] = async_app.task(charge)
    jobs: list[JobHandle] = []
    async with opened(database_url, kind) as connection:
        for _ in range(2):
            requests = (task.request(number) for number in range(count))
            jobs += await settled(async_app.enqueue_many_in(connection, requests))
        await settled(connection.commit())
    assert committed_jobs(database_url) == [job.id for job in jobs]


@on_every_kind
async def test_jobq_has_to_be_there(database_url: str, kind: str, async_app: JobQueue) -> None:
    """The tables are gone, the caller's connection is as good as any."""
    task: Task[..., Any] = async_app.task(charge)
    with create_engine(parse_url(database_url), poolclass=NullPool).begin() as connection:
        is_sqlite = connection.dialect.name == "sqlite"
        tables = ("job_sequence", "jobs") if is_sqlite else ("jobs",)
        for table in tables:
            name = f"jobq_{table}" if is_sqlite else f"jobq.{table}"
            connection.execute(text(f"DROP TABLE {name}"))
    async with opened(database_url, kind) as connection:
        with pytest.raises(NotMigrated, match="run `jobq upgrade`"):
            await settled(task.enqueue_in(connection, 1))


def test_jobqs_schema_has_to_be_there(empty_postgres_url: str) -> None:
    task: Task[..., Any] = JobQueue(empty_postgres_url).task(charge)
    with (
        psycopg.connect(empty_postgres_url) as connection,
        pytest.raises(NotMigrated, match="run `jobq upgrade`"),
    ):
        task.enqueue_in(connection, 1)


class TestSavepoints:
    def test_a_savepoint_that_rolls_back_takes_its_job_along(
        self, task: Task[..., Any], database_url: str
    ) -> None:
        engine = create_engine(parse_url(database_url), poolclass=NullPool)
        with Session(engine) as session, session.begin():
            kept = task.enqueue_in(session, 1)
            with pytest.raises(RuntimeError), session.begin_nested():
                task.enqueue_in(session, 2)
                raise RuntimeError
        assert committed_jobs(database_url) == [kept.id]


class TestRefused:
    @pytest.mark.parametrize("connection", [None, "shop", object(), 7])
    def test_what_is_no_connection(self, nowhere: JobQueue, connection: Any) -> None:
        task: Task[..., Any] = nowhere.task(charge)
        with pytest.raises(UnsupportedConnection, match=r"cannot enqueue in a .*: pass a SQLAlch"):
            task.enqueue_in(connection, 1)

    def test_an_engine(self, nowhere: JobQueue) -> None:
        task: Task[..., Any] = nowhere.task(charge)
        with pytest.raises(UnsupportedConnection, match="cannot enqueue in a Engine"):
            task.enqueue_in(create_engine("sqlite://"), 1)  # type: ignore[call-overload]

    async def test_connections_to_the_other_backend(
        self, postgres_url: str, sqlite_url: str
    ) -> None:
        told = "a job can only be enqueued in the caller's transaction when both are one database"
        for own, other, kinds in (
            (postgres_url, sqlite_url, ("sqlite3", "Session", "Connection", "AsyncSession")),
            (sqlite_url, postgres_url, ("psycopg", "async psycopg", "Session", "AsyncSession")),
        ):
            task: Task[..., Any] = JobQueue(own).task(charge)
            for kind in kinds:
                async with opened(other, kind) as connection:
                    with pytest.raises(UnsupportedConnection, match=told):
                        await settled(task.enqueue_in(connection, 1))


class TestAutocommit:
    """Nothing to commit or roll back with: refused, unless the caller has begun a transaction."""

    def test_sqlite3(self, sqlite_url: str) -> None:
        task: Task[..., Any] = JobQueue(sqlite_url).task(charge)
        connection = sqlite3.connect(str(make_url(sqlite_url).database), isolation_level=None)
        with pytest.raises(UnsupportedConnection, match=r"sqlite3 .* autocommit.*BEGIN IMMEDIATE"):
            task.enqueue_in(connection, 1)
        connection.execute("BEGIN IMMEDIATE")
        job = task.enqueue_in(connection, 1)
        connection.execute("COMMIT")
        connection.close()
        assert committed_jobs(sqlite_url) == [job.id]

    def test_psycopg(self, postgres_url: str) -> None:
        task: Task[..., Any] = JobQueue(postgres_url).task(charge)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            with pytest.raises(UnsupportedConnection, match=r"psycopg .* autocommit.*transaction"):
                task.enqueue_in(connection, 1)
            with connection.transaction():
                job = task.enqueue_in(connection, 1)
        assert committed_jobs(postgres_url) == [job.id]

    async def test_async_psycopg(self, postgres_url: str) -> None:
        task: Task[..., Any] = JobQueue(postgres_url).task(charge)
        connected = await psycopg.AsyncConnection.connect(postgres_url, autocommit=True)
        async with connected as connection:
            with pytest.raises(UnsupportedConnection, match=r"psycopg .* autocommit.*transaction"):
                await task.enqueue_in(connection, 1)
            async with connection.transaction():
                job = await task.enqueue_in(connection, 1)
        assert committed_jobs(postgres_url) == [job.id]

    def test_sqlalchemy(self, database_url: str) -> None:
        task: Task[..., Any] = JobQueue(database_url).task(charge)
        engine = create_engine(
            parse_url(database_url), poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        with Session(engine) as session, pytest.raises(UnsupportedConnection, match="autocommit"):
            task.enqueue_in(session, 1)
        assert committed_jobs(database_url) == []

"""What a type checker knows of a task. mypy reads this file too, with the project's strictness:
an `assert_type` that is wrong, or an ignored error that is none, fails its run.

(With psycopg.Connection[Any] mypy finds every overload as good as any, and checks nothing.)
"""

from __future__ import annotations

import sqlite3
from collections.abc import Coroutine
from typing import Any, assert_type

import psycopg
import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from jobq import InvalidArguments, Job, JobHandle, JobQueue, JobRequest

app = JobQueue("postgresql://127.0.0.1:1/nowhere")


@app.task
def plain(order_id: int, cents: int = 0) -> str:
    return f"{order_id}: {cents}"


@app.task(queue="billing", max_attempts=3)
def with_session(db: Session, order_id: int, *, cents: int) -> None: ...


@app.task
def with_connection(db: Connection, order_id: int) -> None: ...


@app.task
def with_psycopg(db: psycopg.Connection, order_id: int) -> None: ...


@app.task
def with_sqlite3(db: sqlite3.Connection, order_id: int) -> None: ...


@app.task
def with_job(job: Job, order_id: int) -> None: ...


@app.task(queue="billing")
def with_session_and_job(db: Session, job: Job, order_id: int) -> None: ...


@app.task
def with_job_and_session(job: Job, db: Session, order_id: int) -> None: ...


@app.task
async def asynchronous(db: AsyncSession, order_id: int) -> int:
    return order_id


@app.task(queue="billing")
async def with_async_connection(db: AsyncConnection, job: Job, order_id: int) -> None: ...


@app.task
async def with_async_psycopg(db: psycopg.AsyncConnection, order_id: int) -> None: ...


def test_a_request_takes_the_jobs_own_arguments_only() -> None:
    for request in (
        plain.request(7),
        plain.request(7, 999),
        plain.request(order_id=7, cents=999),
        with_session.request(7, cents=999),
        with_connection.request(7),
        with_psycopg.request(7),
        with_sqlite3.request(7),
        with_job.request(7),
        with_session_and_job.request(7),
        with_job_and_session.request(order_id=7),
        asynchronous.request(7),
        with_async_connection.request(7),
        with_async_psycopg.request(7),
    ):
        assert assert_type(request, JobRequest).args.startswith('{"order_id":7')


def test_what_does_not_fit_is_an_error_for_mypy_and_at_run_time() -> None:
    with pytest.raises(InvalidArguments):
        plain.request(order_id=7, cent=999)  # type: ignore[call-arg]
    with pytest.raises(InvalidArguments):
        plain.request()  # type: ignore[call-arg]
    with pytest.raises(InvalidArguments):
        plain.request("7")  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments):
        plain.enqueue(7, 8, 9)  # type: ignore[call-arg]
    with pytest.raises(InvalidArguments):
        with_session.enqueue(Session(), 7, cents=999)  # type: ignore[misc, arg-type]
    with pytest.raises(InvalidArguments):
        with_session.using(delay=5).enqueue(7, cent=999)  # type: ignore[call-arg]
    with pytest.raises(InvalidArguments):
        with_session_and_job.request(7, job=None)  # type: ignore[call-arg]
    with pytest.raises(InvalidArguments):
        with_job_and_session.enqueue(order_id="7")  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments):
        asynchronous.enqueue_in(Session(), cents=1)  # type: ignore[call-overload]
    with pytest.raises(InvalidArguments):
        with_async_connection.enqueue(oder_id=7)  # type: ignore[call-arg]
    with pytest.raises(InvalidArguments):
        with_async_psycopg.enqueue(None, 7)  # type: ignore[call-arg, arg-type]
    with pytest.raises(InvalidArguments):
        with_psycopg.enqueue(order_id="7")  # type: ignore[arg-type]


def test_calling_a_task_gives_what_its_function_gives() -> None:
    assert assert_type(plain(7), str) == "7: 0"
    coroutine = assert_type(asynchronous(None, 7), Coroutine[Any, Any, int])
    coroutine.close()


async def only_read_by_mypy(session: Session, async_session: AsyncSession) -> None:
    assert_type(plain.enqueue(7), JobHandle)
    assert_type(await plain.aenqueue(7), JobHandle)
    assert_type(plain.enqueue_in(session, 7), JobHandle)
    assert_type(await plain.enqueue_in(async_session, 7), JobHandle)
    assert_type(app.enqueue_many([plain.request(7), with_job.request(7)]), list[JobHandle])
    assert_type(await app.enqueue_many_in(async_session, [plain.request(7)]), list[JobHandle])


def handler_of_a_job(job: Job) -> None:
    with job.commit() as session:
        assert_type(session, Session)
    with job.commit(Connection) as connection:
        assert_type(connection, Connection)


async def async_handler_of_a_job(job: Job) -> None:
    async with job.commit() as session:
        assert_type(session, AsyncSession)
    async with job.commit(AsyncConnection) as connection:
        assert_type(connection, AsyncConnection)

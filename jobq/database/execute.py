"""Running a step on a connection that somebody else opened and will commit."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, TypeVar

import psycopg
from psycopg.rows import tuple_row
from sqlalchemy import Connection, TextClause, text

from jobq.store.step import Rows, Statement, Step

T = TypeVar("T")

PsycopgConnection = psycopg.Connection[Any]
AsyncPsycopgConnection = psycopg.AsyncConnection[Any]
Executable = PsycopgConnection | sqlite3.Connection | Connection


def execute(step: Step[T], connection: Executable) -> T:
    """Run `step` in the connection's transaction and return its result. Blocks."""
    if isinstance(connection, Connection):
        run = _on_sqlalchemy
    elif isinstance(connection, sqlite3.Connection):
        run = _on_sqlite
    else:
        run = _on_psycopg
    try:
        statement = next(step)
        while True:
            statement = step.send(run(connection, statement))
    except StopIteration as end:
        result: T = end.value
        return result


def execute_alone(step: Step[T], connection: PsycopgConnection) -> T:
    """Run `step` in a transaction of its own, on an autocommit connection. Blocks.

    A statement that is all of its step is a transaction by itself: one round trip, not three.
    """
    try:
        first = next(step)
    except StopIteration as end:
        result: T = end.value
        return result
    if first.is_whole:
        return execute(_from(first, step), connection)
    with connection.transaction():
        return execute(_from(first, step), connection)


def _from(first: Statement, step: Step[T]) -> Step[T]:
    """The step again, whose first statement was already asked for."""
    statement = first
    try:
        while True:
            statement = step.send((yield statement))
    except StopIteration as end:
        result: T = end.value
        return result


def started(step: Step[T], run: Callable[[Statement | None], Rows]) -> Step[T]:
    """Run the step's first statement, None if it has none, in a way of its own; return what is
    left of the step."""
    try:
        first = next(step)
    except StopIteration as end:
        run(None)
        return _ended(end.value)
    return _after(step, run(first))


async def started_async(
    step: Step[T], run: Callable[[Statement | None], Awaitable[Rows]]
) -> Step[T]:
    """`started` for asyncio."""
    try:
        first = next(step)
    except StopIteration as end:
        await run(None)
        return _ended(end.value)
    return _after(step, await run(first))


def _ended(result: T) -> Step[T]:
    yield from ()
    return result


def _after(step: Step[T], rows: Rows) -> Step[T]:
    try:
        statement = step.send(rows)
    except StopIteration as end:
        result: T = end.value
        return result
    return (yield from _from(statement, step))


async def execute_alone_async(step: Step[T], connection: AsyncPsycopgConnection) -> T:
    """`execute_alone` for asyncio."""
    try:
        first = next(step)
    except StopIteration as end:
        result: T = end.value
        return result
    if first.is_whole:
        return await execute_async(_from(first, step), connection)
    async with connection.transaction():
        return await execute_async(_from(first, step), connection)


async def execute_async(step: Step[T], connection: AsyncPsycopgConnection) -> T:
    """Run `step` in the connection's transaction and return its result."""
    try:
        statement = next(step)
        while True:
            async with connection.cursor(row_factory=tuple_row) as cursor:
                if statement.copied is not None:
                    async with cursor.copy(statement.sql) as copy:
                        for row in statement.copied:
                            await copy.write_row(row)
                else:
                    await cursor.execute(statement.sql, statement.params)
                rows: Rows = await cursor.fetchall() if cursor.description else ()
            statement = step.send(rows)
    except StopIteration as end:
        result: T = end.value
        return result


def _on_psycopg(connection: Any, statement: Statement) -> Rows:
    with connection.cursor(row_factory=tuple_row) as cursor:
        if statement.copied is not None:
            with cursor.copy(statement.sql) as copy:
                for row in statement.copied:
                    copy.write_row(row)
            return ()
        cursor.execute(statement.sql, statement.params)
        rows: Rows = cursor.fetchall() if cursor.description else ()
        return rows


def _on_sqlite(connection: Any, statement: Statement) -> Rows:
    cursor = connection.cursor()
    cursor.row_factory = None  # the caller's connection may make rows of its own kind
    rows: Rows = cursor.execute(statement.sql, statement.params).fetchall()
    return rows


def _on_sqlalchemy(connection: Any, statement: Statement) -> Rows:
    if connection.dialect.driver in ("psycopg", "pysqlite", "aiosqlite"):
        result = connection.exec_driver_sql(statement.sql, dict(statement.params))
    else:
        result = connection.execute(_as_text(statement.sql), dict(statement.params))
    rows: Rows = result.fetchall() if result.returns_rows else ()
    return rows


@cache
def _as_text(sql: str) -> TextClause:
    """The same statement for any driver SQLAlchemy knows (asyncpg, psycopg2, ...).

    The colons of its casts are escaped: SQLAlchemy sees no parameter in `:name::text[]`.
    """
    return text(re.sub(r"%\((\w+)\)s", r":\1", sql.replace("::", r"\:\:")))

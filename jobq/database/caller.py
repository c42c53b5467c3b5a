"""Running a step in a transaction that belongs to the caller."""

from __future__ import annotations

import sqlite3
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from jobq.database.execute import execute, execute_async
from jobq.database.refused import INSUFFICIENT_PRIVILEGE, not_permitted
from jobq.database.url import Backend
from jobq.errors import NotMigrated, UnsupportedConnection
from jobq.store.step import Step

T = TypeVar("T")

UNDEFINED_TABLE, UNDEFINED_SCHEMA = "42P01", "3F000"

ASYNC_CONNECTIONS = (AsyncSession, async_scoped_session, AsyncConnection, psycopg.AsyncConnection)


def run_in(connection: object, step: Step[T], backend: Backend) -> T:
    """Run `step` in the transaction of a blocking session or connection, and leave it open.

    Raises UnsupportedConnection, NotMigrated or NotPermitted.
    """
    if isinstance(connection, Session | scoped_session):
        connection = connection.connection()
    if isinstance(connection, Connection):
        _check_backend(connection.dialect.name, backend)
        _refuse_autocommit(connection.connection.driver_connection)
    elif isinstance(connection, sqlite3.Connection):
        _check_backend("sqlite", backend)
        _refuse_autocommit(connection)
    elif isinstance(connection, psycopg.Connection):
        _check_backend("postgresql", backend)
        _refuse_autocommit(connection)
    else:
        raise _unsupported(connection)
    try:
        return execute(step, connection)
    except (psycopg.Error, sqlite3.Error, DBAPIError) as error:
        raise _explained(error) from error


async def run_in_async(connection: object, step: Step[T], backend: Backend) -> T:
    """`run_in` for an async session or connection."""
    if isinstance(connection, psycopg.AsyncConnection):
        _check_backend("postgresql", backend)
        _refuse_autocommit(connection)
        try:
            return await execute_async(step, connection)
        except psycopg.Error as error:
            raise _explained(error) from error
    if isinstance(connection, async_scoped_session):
        connection = connection()
    if isinstance(connection, AsyncSession | AsyncConnection):
        return await connection.run_sync(lambda blocking: run_in(blocking, step, backend))
    raise _unsupported(connection)


def _check_backend(found: str, backend: Backend) -> None:
    if found != backend:
        raise UnsupportedConnection(
            f"this connection is to {found} and the queue is in {backend}: a job can only be "
            "enqueued in the caller's transaction when both are one database"
        )


def _refuse_autocommit(connection: object) -> None:
    """Raise UnsupportedConnection when the job would be there at once, whatever becomes of the
    caller's work."""
    if isinstance(connection, sqlite3.Connection):
        # Python 3.12 has a second way to say so.
        is_autocommit = connection.isolation_level is None or (
            getattr(connection, "autocommit", False) is True
        )
        is_open = connection.in_transaction
        remedy = "execute BEGIN IMMEDIATE first"
    elif isinstance(connection, psycopg.Connection | psycopg.AsyncConnection):
        is_autocommit = connection.autocommit
        is_open = connection.info.transaction_status != TransactionStatus.IDLE
        remedy = "enqueue inside `with connection.transaction():`"
    else:
        return
    if is_autocommit and not is_open:
        raise UnsupportedConnection(
            f"this {type(connection).__module__} connection is in autocommit mode with no "
            f"transaction open, so the job could not commit or roll back with anything: {remedy}"
        )


def _unsupported(connection: object) -> UnsupportedConnection:
    return UnsupportedConnection(
        f"cannot enqueue in a {type(connection).__qualname__}: pass a SQLAlchemy Session, "
        "Connection, AsyncSession or AsyncConnection, or a psycopg or sqlite3 connection"
    )


def _explained(error: Any) -> Exception:
    cause = getattr(error, "orig", error)
    # psycopg and asyncpg say sqlstate, psycopg2 says pgcode.
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state in (UNDEFINED_TABLE, UNDEFINED_SCHEMA) or (
        str(cause).startswith("no such table: jobq_")
    ):
        return NotMigrated(f"the database has no jobq tables: run `jobq upgrade` ({cause})")
    if state == INSUFFICIENT_PRIVILEGE:
        reason = str(cause).splitlines()[0]
        return not_permitted("the connection that the job was to be enqueued in", reason)
    if isinstance(error, Exception):
        return error
    raise TypeError(error)

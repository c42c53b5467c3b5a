"""Every kind of session and connection a handler can ask for, driven by one set of tests.

`boundary` opens the commit boundary that belongs to the kind; a `Hand` does to its handle what a
handler might do. Blocking handles are called in place: nothing else runs on the loop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from jobq.commit import Relay, commit_effect_idempotent, commit_effect_idempotent_async
from jobq.database.base import Database
from jobq.protocol.values import Lease


class BillingSession(Session):
    """A service's own session class."""


class AsyncBillingSession(AsyncSession):
    """A service's own async session class."""


Kind = type[Any]

SESSIONS: tuple[Kind, ...] = (Session, BillingSession, AsyncSession, AsyncBillingSession)
"""With classes of a service's own, which only the tests about sessions try."""
SQLALCHEMY: tuple[Kind, ...] = (Connection, AsyncConnection, Session, AsyncSession)
ASYNC: tuple[Kind, ...] = (psycopg.AsyncConnection, AsyncConnection, AsyncSession)
ON_POSTGRES: tuple[Kind, ...] = (psycopg.Connection, psycopg.AsyncConnection, *SQLALCHEMY)
ON_SQLITE: tuple[Kind, ...] = (sqlite3.Connection, *SQLALCHEMY)


def _param(backend: str, kind: Kind) -> Any:
    return pytest.param(
        backend, kind, id=f"{backend}-{kind.__module__.split('.')[0]}-{kind.__name__}"
    )


def on_kinds(postgres: Sequence[Kind], sqlite: Sequence[Kind]) -> pytest.MarkDecorator:
    """Run the test on these kinds. They decide the backend: `database_url` opens it."""
    params = [
        *(_param("postgresql", kind) for kind in postgres),
        *(_param("sqlite", kind) for kind in sqlite),
    ]
    return pytest.mark.parametrize(("database_url", "kind"), params, indirect=["database_url"])


on_every_kind = on_kinds(ON_POSTGRES, ON_SQLITE)
on_postgres_kinds = on_kinds(ON_POSTGRES, ())
on_sqlite_kinds = on_kinds((), ON_SQLITE)
on_driver_kinds = on_kinds([psycopg.Connection, psycopg.AsyncConnection], ())
on_session_kinds = on_kinds(SESSIONS, SESSIONS)
on_async_postgres_kinds = on_kinds(ASYNC, ())


class Hand:
    """A handler's hand on its session or connection."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    async def execute(self, statement: str) -> None:
        is_sqlalchemy = isinstance(self.handle, SQLALCHEMY)
        await done(self.handle.execute(text(statement) if is_sqlalchemy else statement))

    async def charge(self, lease: Lease, worker: str) -> None:
        await self.execute(f"INSERT INTO ledger VALUES ({lease.job_id}, '{worker}')")

    async def commit(self) -> None:
        await done(self.handle.commit())

    async def rollback(self) -> None:
        await done(self.handle.rollback())

    async def close(self) -> None:
        await done(self.handle.close())

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """As a handler would confine an error: begin_nested(), or what the driver has for it."""
        if isinstance(self.handle, sqlite3.Connection):
            await self.execute("SAVEPOINT confined")
            try:
                yield
            except BaseException:
                await self.execute("ROLLBACK TO confined")
                raise
            finally:
                await self.execute("RELEASE confined")
            return
        is_sqlalchemy = isinstance(self.handle, SQLALCHEMY)
        nested = self.handle.begin_nested() if is_sqlalchemy else self.handle.transaction()
        if hasattr(nested, "__aenter__"):
            async with nested:
                yield
        else:
            with nested:
                yield


@asynccontextmanager
async def boundary(
    database: Database, lease: Lease, kind: Kind, relay: Relay | None = None
) -> AsyncIterator[Hand]:
    """The commit boundary of an attempt, with a hand on what it gives to the handler."""
    if issubclass(kind, ASYNC):
        async with commit_effect_idempotent_async(database, lease, kind, relay) as handle:
            yield Hand(handle)
    else:
        with commit_effect_idempotent(database, lease, kind, relay) as handle:
            yield Hand(handle)


async def done(result: Any) -> Any:
    return await result if isawaitable(result) else result

"""Every kind of session and connection a caller may enqueue in, opened as a service would."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from jobq.database.url import parse_url

ANYWHERE = ("Session", "scoped_session", "Connection")
ASYNC = ("AsyncSession", "async_scoped_session", "AsyncConnection")
ON_POSTGRES = (
    *ANYWHERE,
    "psycopg",
    "async psycopg",
    *ASYNC,
    "asyncpg AsyncSession",
    "asyncpg AsyncConnection",
)
ON_SQLITE = (*ANYWHERE, "sqlite3", *ASYNC)

# They decide the backend too: `database_url` is the fixture that opens it.
on_every_kind = pytest.mark.parametrize(
    ("database_url", "kind"),
    [
        *(pytest.param("postgresql", kind, id=f"postgresql-{kind}") for kind in ON_POSTGRES),
        *(pytest.param("sqlite", kind, id=f"sqlite-{kind}") for kind in ON_SQLITE),
    ],
    indirect=["database_url"],
)


@asynccontextmanager
async def opened(url: str, kind: str) -> AsyncIterator[Any]:
    """A session or connection with no transaction begun: to enqueue is the first thing done."""
    if kind == "psycopg":
        with psycopg.connect(url) as blocking:
            yield blocking
    elif kind == "async psycopg":
        async with await psycopg.AsyncConnection.connect(url) as connection:
            yield connection
    elif kind == "sqlite3":
        lite = sqlite3.connect(str(make_url(url).database))
        lite.row_factory = sqlite3.Row  # a service's own taste
        try:
            yield lite
        finally:
            lite.close()
    elif kind in ANYWHERE:
        engine = create_engine(parse_url(url), poolclass=NullPool)
        if kind == "Connection":
            with engine.connect() as sa:
                yield sa
        elif kind == "Session":
            with Session(engine) as session:
                yield session
        else:
            registry = scoped_session(sessionmaker(engine))
            yield registry
            registry.remove()
    else:
        async_engine = create_async_engine(_async_url(url, kind), poolclass=NullPool)
        if kind.startswith("asyncpg"):
            async_engine = create_async_engine(
                "postgresql+asyncpg://", async_creator=lambda: _asyncpg(url), poolclass=NullPool
            )
        if kind.endswith("AsyncConnection"):
            async with AsyncConnection(async_engine) as async_connection:
                yield async_connection
        elif kind.endswith("AsyncSession"):
            async with AsyncSession(async_engine) as async_session:
                yield async_session
        else:
            async_registry = async_scoped_session(async_sessionmaker(async_engine), lambda: 1)
            yield async_registry
            await async_registry.remove()


async def settled(result: Any) -> Any:
    """Wait for what an async session or connection returns, and take what a blocking one does."""
    return await result if isawaitable(result) else result


def _async_url(url: str, kind: str) -> Any:
    parsed = parse_url(url)
    return parsed.set(drivername="sqlite+aiosqlite") if url.startswith("sqlite") else parsed


async def _asyncpg(url: str) -> Any:
    parsed = make_url(url)
    return await asyncpg.connect(
        host=parsed.query.get("host") or parsed.host,
        port=parsed.port,
        user=parsed.username,
        password=parsed.password,
        database=parsed.database,
    )

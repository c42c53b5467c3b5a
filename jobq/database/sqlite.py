"""Connections to an SQLite file, through SQLAlchemy's pool."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from jobq.database.base import AsyncEffect, Database, Effect, Link, NotWhole
from jobq.database.execute import execute
from jobq.database.guarded import BEGIN, COMMIT, GuardedConnection
from jobq.database.refused import not_storable
from jobq.database.sqlalchemy import AsyncSqlalchemyEffect, SqlalchemyEffect, asking
from jobq.errors import (
    DatabaseUnavailable,
    InvalidDatabaseURL,
    MissingExtra,
    NotMigrated,
    UnsupportedDatabase,
)
from jobq.models import DEFAULT_SCHEMA
from jobq.protocol.values import Recorded
from jobq.store import SqliteStore
from jobq.store.step import Step

T = TypeVar("T")
C = TypeVar("C")

MINIMUM_VERSION = (3, 35, 0)
LOOK_S = 0.01
"""How often an idle worker looks whether anybody has committed."""
BUSY_TIMEOUT_S = 10.0
"""How long a transaction waits for the one before it to end."""


class SqliteDatabase(Database):
    """One file, any number of processes on one machine, one writer at a time."""

    def __init__(self, url: URL, *, max_connections: int = 10) -> None:
        check_sqlite_version(sqlite3.sqlite_version_info)
        self.url = url
        self.schema = DEFAULT_SCHEMA
        self.store = SqliteStore()
        self.max_connections = max_connections
        self._async_engines: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncEngine] = (
            WeakKeyDictionary()
        )

    @cached_property
    def engine(self) -> Engine:
        engine = create_engine(
            self.url,
            creator=self.connect,
            poolclass=QueuePool,
            pool_size=self.max_connections,
            max_overflow=0,
        )
        event.listen(engine, "begin", _begin_immediate)
        return engine

    def _async_engine(self) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        engine = self._async_engines.get(loop)
        if engine is None:
            try:
                engine = create_async_engine(
                    self.url.set(drivername="sqlite+aiosqlite"),
                    connect_args={"timeout": BUSY_TIMEOUT_S, "factory": GuardedConnection},
                    pool_size=self.max_connections,
                    max_overflow=0,
                )
            except ModuleNotFoundError as error:
                raise MissingExtra(
                    "AsyncSession or AsyncConnection on SQLite", "aiosqlite"
                ) from error
            event.listen(engine.sync_engine, "connect", _prepare_async)
            event.listen(engine.sync_engine, "begin", _begin_immediate)
            self._async_engines[loop] = engine
        return engine

    def connect(self) -> GuardedConnection:
        """Open a connection outside of the pool."""
        path = Path(str(self.url.database))
        if not self.url.query and not path.is_file():
            raise NotMigrated(f"there is no database file {path}: run `jobq upgrade` to make it")
        with self._translated():
            connection = sqlite3.connect(
                str(path),
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                factory=GuardedConnection,
            )
            prepare(connection)
        return connection

    def run(self, step: Step[T]) -> T:
        with self._translated():
            pooled = self.engine.raw_connection()
            try:
                return _in_transaction(step, _driver(pooled))
            finally:
                pooled.close()

    async def run_async(self, step: Step[T]) -> T:
        return await asyncio.to_thread(self.run, step)

    def link(self, *, listens: bool = False) -> Link:
        return _SqliteLink(self)

    def supports(self, kind: type[Any]) -> bool:
        return issubclass(
            kind, Session | Connection | sqlite3.Connection | AsyncSession | AsyncConnection
        )

    def begin_effect(self, kind: type[C]) -> Effect[C]:
        with self._translated():
            if issubclass(kind, sqlite3.Connection):
                return cast(Effect[C], _DriverEffect(self.engine.raw_connection()))
            return _GuardedEffect(self.engine, kind)

    async def begin_effect_async(self, kind: type[C]) -> AsyncEffect[C]:
        with self._translated():
            effect = await _AsyncGuardedEffect.begin(self._async_engine(), kind)
            await effect.guard()
            return effect

    def close(self) -> None:
        if "engine" in self.__dict__:
            self.engine.dispose()

    async def aclose(self) -> None:
        engine = self._async_engines.pop(asyncio.get_running_loop(), None)
        if engine is not None:
            await engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn sqlite3's errors into jobq's: what happened, and what to do."""
        try:
            yield
        except (sqlite3.Error, DBAPIError) as error:
            raise self._translate(error) from error
        except (UnicodeEncodeError, OverflowError) as error:
            raise not_storable(error) from error

    def _translate(self, error: sqlite3.Error | DBAPIError) -> Exception:
        cause = error.orig if isinstance(error, DBAPIError) else error
        message = str(cause)
        if message.startswith(("no such table: jobq_", "no such column")):
            return NotMigrated(
                f"jobq's tables are missing or old in {self.url!r}: run `jobq upgrade` ({message})"
            )
        if "file is not a database" in message:
            return InvalidDatabaseURL(f"{self.url!r} names a file that is not an SQLite database")
        if isinstance(cause, sqlite3.OperationalError):
            return DatabaseUnavailable(f"{self.url!r}: {message}")
        return error


def check_sqlite_version(found: tuple[int, ...]) -> None:
    """Raise UnsupportedDatabase when Python was built with too old an SQLite."""
    if found < MINIMUM_VERSION:
        raise UnsupportedDatabase(
            f"this Python uses SQLite {'.'.join(map(str, found))}; jobq needs "
            f"{'.'.join(map(str, MINIMUM_VERSION))} or newer (for RETURNING): use a newer Python "
            "build, or PostgreSQL"
        )


def prepare(connection: sqlite3.Connection) -> None:
    """Readers beside one writer (WAL), and an acknowledged commit survives a power cut (FULL)."""
    _change_to_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")


def _change_to_wal(connection: sqlite3.Connection) -> None:
    """A file keeps its mode; the first to open it changes that. SQLite waits for nobody with it:
    beside a writer, or another who changes the mode, it says at once that the file is locked."""
    deadline_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() >= deadline_s:
                raise
            time.sleep(LOOK_S)
        else:
            return


class _SqliteLink(Link):
    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._connection: sqlite3.Connection | None = None
        self._seen_version = 0

    def run(self, step: Step[T]) -> T:
        if self._connection is None:
            self._connection = self._database.connect()
        with self._database._translated():  # noqa: SLF001
            self._seen_version = self._version()
            return _in_transaction(step, self._connection)

    @contextmanager
    def watched(
        self, loop: asyncio.AbstractEventLoop, on_news: Callable[[], None]
    ) -> Iterator[None]:
        # There is nobody who could notify. But the file's version, which changes with every commit
        # of another connection, is read without a lock and within microseconds.
        if self._connection is None:
            on_news()
            yield
            return
        self._watching = loop.call_later(LOOK_S, self._look, loop, on_news)
        try:
            yield
        finally:
            self._watching.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop, on_news: Callable[[], None]) -> None:
        version = self._version()
        if version != self._seen_version:
            on_news()
        self._watching = loop.call_later(LOOK_S, self._look, loop, on_news)

    def _version(self) -> int:
        assert self._connection is not None
        ((version,),) = self._connection.execute("PRAGMA data_version")
        return int(version)

    def abandon(self) -> None:
        if self._connection is not None:
            self._connection.interrupt()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _DriverEffect(Effect[sqlite3.Connection]):
    handle: GuardedConnection

    def __init__(self, pooled: PoolProxiedConnection) -> None:
        self._pooled = pooled
        self.handle = _driver(pooled)
        try:
            self.handle.execute(BEGIN)
        except BaseException:
            pooled.close()
            raise
        self.handle.guard()

    def run(self, step: Step[T]) -> T:
        return execute(step, self.handle)

    def flush(self) -> None:
        """A driver connection holds nothing back."""

    def commit(self, confirm: Step[bool], then: Step[Recorded] | None = None) -> None:
        with asking():
            is_whole = self.run(confirm)
        if not is_whole:
            raise NotWhole
        self.handle.unguard()
        self.handle.execute(COMMIT)

    def close(self) -> None:
        # What a handler set on its connection, or did to it, is no business of the next one.
        try:
            self.handle.unguard()
            self.handle.row_factory = None
            self.handle.text_factory = str
            if self.handle.in_transaction:
                self.handle.execute("ROLLBACK")
        except sqlite3.ProgrammingError:  # the handler closed it
            self._pooled.invalidate()
        self._pooled.close()

    @property
    def is_broken(self) -> bool:
        return False


class _GuardedEffect(SqlalchemyEffect[C]):
    def __init__(self, engine: Engine, kind: type[C]) -> None:
        super().__init__(engine, kind)
        self._guarded: GuardedConnection = self.driver
        self._guarded.guard()

    def commit(self, confirm: Step[bool], then: Step[Recorded] | None = None) -> None:
        self._guarded.unguard()
        super().commit(confirm, then)

    def close(self) -> None:
        self._guarded.unguard()
        super().close()


class _AsyncGuardedEffect(AsyncSqlalchemyEffect[C]):
    """aiosqlite's connection lives on a thread of its own, where it is guarded too."""

    async def guard(self) -> None:
        pooled = await self._connection.get_raw_connection()
        self._driver: Any = pooled.driver_connection
        await self._on_its_thread(lambda guarded: guarded.guard())

    async def commit(self, confirm: Step[bool], then: Step[Recorded] | None = None) -> None:
        await self._on_its_thread(lambda guarded: guarded.unguard())
        await super().commit(confirm, then)

    async def close(self) -> None:
        await self._on_its_thread(lambda guarded: guarded.unguard())
        await super().close()

    async def _on_its_thread(self, action: Callable[[GuardedConnection], None]) -> None:
        await self._driver._execute(action, self._driver._conn)  # noqa: SLF001 - it has no other way


def _driver(pooled: PoolProxiedConnection) -> GuardedConnection:
    return cast(GuardedConnection, pooled.driver_connection)


def _in_transaction(step: Step[T], connection: sqlite3.Connection) -> T:
    connection.execute(BEGIN)
    try:
        result = execute(step, connection)
        connection.execute(COMMIT)
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql(BEGIN)


def _prepare_async(connection: Any, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None
    # On aiosqlite's thread, where it may wait.
    connection.run_async(lambda driver: driver._execute(prepare, driver._conn))  # noqa: SLF001

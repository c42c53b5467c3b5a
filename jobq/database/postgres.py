"""Connections to PostgreSQL: psycopg 3 and its pool, and SQLAlchemy engines over that pool."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import psycopg
from psycopg import BaseConnection, IsolationLevel, errors, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import tuple_row
from psycopg.types.numeric import Int8Dumper
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed, PoolTimeout
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from jobq.database.base import AsyncEffect, Database, Effect, Link, NotWhole
from jobq.database.execute import (
    AsyncPsycopgConnection,
    PsycopgConnection,
    execute,
    execute_alone,
    execute_alone_async,
    execute_async,
    started,
    started_async,
)
from jobq.database.message import (
    begin_with,
    can_be_written_out,
    check_committed,
    commit_if,
    failure,
    rows_of,
    sent,
)
from jobq.database.refused import not_permitted, not_storable
from jobq.database.sqlalchemy import (
    AsyncSqlalchemyEffect,
    SqlalchemyEffect,
)
from jobq.database.url import conninfo
from jobq.errors import DatabaseUnavailable, NotMigrated, UnsupportedDatabase
from jobq.protocol.values import Recorded
from jobq.store.postgres import PostgresStore, channel_of
from jobq.store.step import Rows, Statement, Step, first_of

T = TypeVar("T")
C = TypeVar("C")

MINIMUM_VERSION = 140000

# A peer that vanished (a cable, a firewall) is noticed within half a minute, not in two hours.
_CONNECTION_DEFAULTS: dict[str, str | int] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "fallback_application_name": "jobq",
}
# Psycopg counts some of these as internal errors; all say that the session or server is no use.
_AWAY = (
    psycopg.OperationalError,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
    PoolClosed,
)
# A commit record's lease is found by its key. A plan made while the leases filled one page would
# read the whole table instead, and would be kept when it is long: so no table is scanned, until the
# record itself gives the handler its database's own setting back.
#
# With `synchronous_commit` off, for speed some databases' default, commits are acknowledged that a
# crash undoes. Its other values say what standbys are waited for, which is not ours to decide.
CONFIGURE = """
SELECT set_config('idle_in_transaction_session_timeout',
                  coalesce(%(idle_limit)s::text,
                           current_setting('idle_in_transaction_session_timeout')), false),
       set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit')
                      WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false),
       set_config('enable_seqscan', 'off', false)
"""
# jobq's own statements, on its own connections: planned once, for tables of any size. Planning
# EXCHANGE costs as much as running it for ten jobs, and its one right plan is known: by the keys,
# row by row. A plan from when the queue was empty would otherwise be kept when it is long.
PLAN_ONCE = """
SELECT set_config('plan_cache_mode', 'force_generic_plan', false),
       set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false),
       set_config('enable_hashjoin', 'off', false), set_config('enable_mergejoin', 'off', false),
       set_config('jit', 'off', false)
"""
# Behind a pooler that gives out a server by the transaction, what was set for a session would be
# there for others and gone for us: the same is set for each transaction.
CONFIGURE_LOCALLY = CONFIGURE.replace("false)", "true)")
PLAN_LOCALLY = PLAN_ONCE.replace("false)", "true)")
CANCEL_TIMEOUT_S = 3.0
DEAF_S = 60.0
"""After an abandoned connection, those of so long ask for no notifications: a worker polls then."""
POOL_TIMEOUT_S = 10.0
# The pool waits longer and longer between its tries, and all requests wait with it: give up soon,
# and let the next request try afresh.
POOL_RECONNECT_S = 3.0
POOL_MAX_IDLE_S = 60.0


_NOT_YOURS = (
    "this transaction is a job's effect, and jobq commits it with the job's commit record: return "
    "from the handler, or raise, instead"
)


class _PooledConnection(psycopg.Connection[Any]):
    """SQLAlchemy closes what it is done with; that gives the connection back to its pool.

    The pool's own `close_returns` forgets connections that broke: each is a place in the pool
    lost for good, and after a restart of the server there are none left.
    """

    _pool: ConnectionPool[Any] | None = None
    is_lent = False
    """In a handler's own hands, which may close it (`with connection:` does): then it is closed,
    and not given to somebody else in the middle of its transaction."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared: dict[str, str] = {}
        """Names of jobq's own statements that the server has a plan of, by their text."""

    def commit(self) -> None:
        if self.is_lent:
            raise psycopg.ProgrammingError(_NOT_YOURS)
        super().commit()

    def rollback(self) -> None:
        if self.is_lent:
            raise psycopg.ProgrammingError(_NOT_YOURS)
        super().rollback()

    def close(self) -> None:
        if self._pool is not None and not self.is_lent:
            _forget_handler(self)
            self._pool.putconn(self)
        else:
            super().close()


class _AsyncPooledConnection(psycopg.AsyncConnection[Any]):
    _pool: AsyncConnectionPool[Any] | None = None
    is_lent = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared: dict[str, str] = {}

    async def commit(self) -> None:
        if self.is_lent:
            raise psycopg.ProgrammingError(_NOT_YOURS)
        await super().commit()

    async def rollback(self) -> None:
        if self.is_lent:
            raise psycopg.ProgrammingError(_NOT_YOURS)
        await super().rollback()

    async def close(self) -> None:
        if self._pool is not None and not self.is_lent:
            _forget_handler(self)
            await self._pool.putconn(self)
        else:
            await super().close()


class PostgresDatabase(Database):
    """A pool of at most `max_connections`, for steps and effects, and links beside it.

    With `idle_in_transaction_s` the server ends a transaction whose client has been silent for
    so long: a process frozen inside one keeps lease rows locked, and only the server can break
    that lock.
    """

    def __init__(
        self,
        url: URL,
        *,
        schema: str,
        max_connections: int = 10,
        idle_in_transaction_s: float | None = None,
        is_pooled: bool = False,
    ) -> None:
        self.url = url
        self.is_pooled = is_pooled
        self.schema = schema
        self.store = PostgresStore(schema)
        self.max_connections = max_connections
        self._idle_in_transaction_s = idle_in_transaction_s
        self._conninfo = conninfo(url)
        given = conninfo_to_dict(self._conninfo)
        self._user = given.get("user") or "the default user"
        self._parameters: dict[str, Any] = {
            name: value for name, value in _CONNECTION_DEFAULTS.items() if name not in given
        }
        if is_pooled:
            self._parameters["prepare_threshold"] = None
        # An asyncio pool belongs to the loop it was opened in.
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _AsyncSide] = (
            WeakKeyDictionary()
        )

    @cached_property
    def pool(self) -> ConnectionPool[_PooledConnection]:
        return ConnectionPool(
            self._conninfo,
            kwargs=self._parameters,
            min_size=0,
            max_size=self.max_connections,
            max_idle=POOL_MAX_IDLE_S,
            timeout=POOL_TIMEOUT_S,
            reconnect_timeout=POOL_RECONNECT_S,
            configure=self._configure,
            connection_class=_PooledConnection,
            open=True,
        )

    @cached_property
    def engine(self) -> Engine:
        return create_engine(self.url, poolclass=NullPool, creator=self.pool.getconn)

    async def _async_side(self) -> _AsyncSide:
        loop = asyncio.get_running_loop()
        side = self._by_loop.get(loop)
        if side is None:
            pool: AsyncConnectionPool[_AsyncPooledConnection] = AsyncConnectionPool(
                self._conninfo,
                kwargs=self._parameters,
                min_size=0,
                max_size=self.max_connections,
                max_idle=POOL_MAX_IDLE_S,
                timeout=POOL_TIMEOUT_S,
                reconnect_timeout=POOL_RECONNECT_S,
                configure=self._configure_async,
                connection_class=_AsyncPooledConnection,
                open=False,
            )
            side = self._by_loop[loop] = _AsyncSide(self.url, pool)
            await pool.open()
        return side

    def run(self, step: Step[T]) -> T:
        with self._translated(), self._lent() as connection:
            return execute_alone(self.with_settings(step), connection)

    async def run_async(self, step: Step[T]) -> T:
        with self._translated():
            async with self._lent_async() as connection:
                return await execute_alone_async(self.with_settings(step), connection)

    def with_settings(self, step: Step[T], *, is_on_link: bool = False) -> Step[T]:
        if not self.is_pooled:
            return step
        return self._after_settings(step, is_on_link=is_on_link)

    def _after_settings(self, step: Step[T], *, is_on_link: bool) -> Step[T]:
        yield Statement(CONFIGURE_LOCALLY, self._idle_limit)
        if is_on_link:
            yield Statement(PLAN_LOCALLY, {})
        try:
            statement = next(step)
            while True:
                statement = step.send((yield replace(statement, is_whole=False)))
        except StopIteration as end:
            result: T = end.value
            return result

    @contextmanager
    def _lent(self) -> Iterator[_PooledConnection]:
        """A pooled connection in autocommit mode.

        After a restart of the server they may all be dead. That is seen before anything is sent on
        one: afterwards nobody could tell what was done, and nothing may be sent twice.
        """
        while True:
            connection = self.pool.getconn()
            if not _has_ended(connection):
                break
            psycopg.Connection.close(connection)
            self.pool.putconn(connection)
        try:
            connection.autocommit = True
            yield connection
        finally:
            if _is(connection, TransactionStatus.IDLE):
                connection.autocommit = False
            else:
                psycopg.Connection.close(connection)
            self.pool.putconn(connection)

    @asynccontextmanager
    async def _lent_async(self) -> AsyncIterator[_AsyncPooledConnection]:
        pool = (await self._async_side()).pool
        while True:
            connection = await pool.getconn()
            if not _has_ended(connection):
                break
            await psycopg.AsyncConnection.close(connection)
            await pool.putconn(connection)
        try:
            await connection.set_autocommit(True)
            yield connection
        finally:
            if _is(connection, TransactionStatus.IDLE):
                await connection.set_autocommit(False)
            else:
                await psycopg.AsyncConnection.close(connection)
            await pool.putconn(connection)

    def link(self, *, listens: bool = False) -> Link:
        return _PostgresLink(self, listens=listens)

    def connect(self, *, listens: bool = False) -> PsycopgConnection:
        """Open a connection outside of the pool. Raises DatabaseUnavailable with the reason."""
        with self._translated():
            connection: PsycopgConnection = psycopg.connect(self._conninfo, **self._parameters)
        try:
            if connection.info.server_version < MINIMUM_VERSION:
                version = connection.info.parameter_status("server_version")
                raise UnsupportedDatabase(
                    f"the server runs PostgreSQL {version}; jobq needs 14 or newer: upgrade the "
                    "server"
                )
            with self._translated():
                self._make_link_of(connection, listens=listens)
        except BaseException:
            connection.close()
            raise
        return connection

    def _make_link_of(self, connection: PsycopgConnection, *, listens: bool) -> None:
        # A link needs the limit as much as an effect does: a worker frozen in the middle of its
        # turn holds the rows of other jobs' leases too.
        self._configure(connection)
        connection.autocommit = True
        if not self.is_pooled:
            connection.execute(PLAN_ONCE)
        if listens and not self.is_pooled:
            channel = sql.Identifier(channel_of(self.schema))
            connection.execute(sql.SQL("LISTEN {}").format(channel))
        # By default a number's size decides on its type, and each combination is another statement.
        connection.adapters.register_dumper(int, Int8Dumper)

    def supports(self, kind: type[Any]) -> bool:
        return issubclass(
            kind,
            Session
            | Connection
            | psycopg.Connection
            | AsyncSession
            | AsyncConnection
            | psycopg.AsyncConnection,
        )

    def begin_effect(self, kind: type[C]) -> Effect[C]:
        with self._translated():
            if issubclass(kind, psycopg.Connection):
                return cast(Effect[C], _PsycopgEffect(self.pool, is_pooled=self.is_pooled))
            return SqlalchemyEffect(self.engine, kind)

    async def begin_effect_async(self, kind: type[C]) -> AsyncEffect[C]:
        with self._translated():
            side = await self._async_side()
            if issubclass(kind, psycopg.AsyncConnection):
                effect = await _AsyncPsycopgEffect.begin(side.pool, is_pooled=self.is_pooled)
                return cast(AsyncEffect[C], effect)
            return await AsyncSqlalchemyEffect.begin(side.engine, kind)

    def close(self) -> None:
        if "pool" in self.__dict__:
            self.pool.close()

    async def aclose(self) -> None:
        side = self._by_loop.pop(asyncio.get_running_loop(), None)
        if side is not None:
            await side.pool.close()

    def _configure(self, connection: PsycopgConnection) -> None:
        # The steps look again in a later statement, which must see what was committed meanwhile,
        # whatever the database's default is.
        connection.isolation_level = IsolationLevel.READ_COMMITTED
        if not self.is_pooled:
            connection.execute(CONFIGURE, self._idle_limit)
            connection.commit()

    async def _configure_async(self, connection: AsyncPsycopgConnection) -> None:
        await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
        if not self.is_pooled:
            await connection.execute(CONFIGURE, self._idle_limit)
            await connection.commit()

    @property
    def _idle_limit(self) -> dict[str, str | None]:
        limit_s = self._idle_in_transaction_s
        return {"idle_limit": None if limit_s is None else f"{round(limit_s * 1000)}ms"}

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the driver's errors into jobq's: what happened, and what to do."""
        try:
            yield
        except (psycopg.Error, PoolTimeout, PoolClosed, DBAPIError) as error:
            raise self._translate(error) from error
        except UnicodeEncodeError as error:
            raise not_storable(error) from error

    def _translate(self, error: Exception) -> Exception:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(
            cause, errors.UndefinedTable | errors.InvalidSchemaName | errors.UndefinedColumn
        ):
            return NotMigrated(
                f"jobq's tables are missing or old in {self.url!r}: run `jobq upgrade` "
                f"({cause.diag.message_primary})"
            )
        if isinstance(cause, errors.InsufficientPrivilege):
            who = f"{self.url!r}, as {self._user!r}"
            return not_permitted(who, str(cause.diag.message_primary))
        if isinstance(cause, psycopg.DataError):
            return not_storable(cause)
        if isinstance(cause, PoolTimeout):
            return DatabaseUnavailable(
                f"no connection to {self.url!r} within {POOL_TIMEOUT_S:g} s: the server is down, "
                f"or all {self.max_connections} connections of the pool are in use"
            )
        if isinstance(cause, _AWAY):
            return DatabaseUnavailable(f"{self.url!r}: {str(cause).strip()}")
        return error


class _AsyncSide:
    """What belongs to one event loop."""

    def __init__(self, url: URL, pool: AsyncConnectionPool[_AsyncPooledConnection]) -> None:
        self.pool = pool
        self._url = url

    @cached_property
    def engine(self) -> AsyncEngine:
        return create_async_engine(self._url, poolclass=NullPool, async_creator=self.pool.getconn)


class _PostgresLink(Link):
    def __init__(self, database: PostgresDatabase, *, listens: bool) -> None:
        self._database = database
        self._listens = listens
        self._connection: PsycopgConnection | None = None
        self._has_news = False
        self._deaf_until_s = 0.0

    def run(self, step: Step[T]) -> T:
        if self._connection is None or self._connection.closed:
            self._connection = self._open()
        self._has_news = False
        with self._database._translated():  # noqa: SLF001
            database = self._database
            return execute_alone(database.with_settings(step, is_on_link=True), self._connection)

    @property
    def is_told(self) -> bool:
        return not self._database.is_pooled

    def _open(self) -> PsycopgConnection:
        is_deaf = time.monotonic() < self._deaf_until_s
        connection = self._database.connect(listens=self._listens and not is_deaf)
        connection.add_notify_handler(self._on_notify)
        return connection

    def _on_notify(self, _: psycopg.Notify) -> None:
        self._has_news = True

    @contextmanager
    def watched(
        self, loop: asyncio.AbstractEventLoop, on_news: Callable[[], None]
    ) -> Iterator[None]:
        # Whatever comes on an idle connection is news: a notification, or the connection's end,
        # which the next step will tell of.
        connection = self._connection
        if self._has_news or connection is None or _has_arrived(connection):
            on_news()
        if connection is None or connection.closed:
            yield
            return
        wire = connection.fileno()
        loop.add_reader(wire, on_news)
        try:
            yield
        finally:
            loop.remove_reader(wire)

    def abandon(self) -> None:
        connection = self._connection
        if connection is None or connection.closed:
            return
        # Something on the way may let nothing through to those who listen.
        self._deaf_until_s = time.monotonic() + DEAF_S
        # First a word to the server, so that nothing is left running there; it goes over a
        # connection of its own. Then the socket is shut: whoever waits on it reads its end.
        with suppress(psycopg.Error):
            connection.cancel_safe(timeout=CANCEL_TIMEOUT_S)
        with (
            suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(connection.fileno())) as wire,
        ):
            wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _PsycopgEffect(Effect[PsycopgConnection]):
    """BEGIN goes out with the record, COMMIT with the closing question, and the next effect's
    BEGIN, if it is known, with that COMMIT: fewer round trips than without jobq."""

    handle: _PooledConnection

    def __init__(self, pool: ConnectionPool[_PooledConnection], *, is_pooled: bool) -> None:
        """`is_pooled`: a plan, or a transaction begun with COMMIT, may be left on a server that the
        next transaction does not get."""
        self._is_pooled = is_pooled
        self._pool = pool
        self.handle = pool.getconn()
        self.handle.is_lent = True
        self._begun: Rows | None = None

    def run(self, step: Step[T]) -> T:
        if self._begun is not None:
            begun, self._begun = self._begun, None
            step = started(step, lambda _: begun)
        elif _is(self.handle, TransactionStatus.IDLE):
            step = started(step, self._begin_with)
        return execute(step, self.handle)

    def _begin_with(self, statement: Statement | None) -> Rows:
        if statement is not None and not can_be_written_out(statement):
            self._begin_with(None)
            return self.handle.execute(statement.sql.encode(), statement.params).fetchall()
        results = self._send(begin_with(statement, self.handle.prepared))
        error = failure(results)
        if isinstance(error, errors.InvalidSqlStatementName):
            self._rollback()  # psycopg has since said DEALLOCATE ALL
            results = self._send(begin_with(statement, self.handle.prepared))
            error = failure(results)
        if error is not None:
            self.handle.prepared.clear()  # who knows how far it came
            raise error
        return rows_of(results[-1])

    def _send(self, statements: Sequence[str]) -> list[PGresult]:
        results = self.handle.wait(sent(statements, self.handle.pgconn))
        if _is_last_word(results):
            psycopg.Connection.close(self.handle)
        return results

    def _rollback(self) -> None:
        self.handle.prepared.clear()
        self._send(["ROLLBACK"])

    def flush(self) -> None:
        """A driver connection holds nothing back."""

    def commit(self, confirm: Step[bool], then: Step[Recorded] | None = None) -> None:
        if not _is(self.handle, TransactionStatus.INTRANS):
            raise NotWhole
        then = None if self._is_pooled else then
        committing = commit_if(first_of(confirm))
        beginning = begin_with(first_of(then), self.handle.prepared) if then else []
        results = self._send([*committing, *beginning])
        check_committed(results, committing)
        if not failure(results):
            _forget_handler(self.handle)
            self._begun = rows_of(results[-1]) if then else None
        elif not self.handle.closed:
            self._rollback()  # the next did not begin; when it does anew, it will see why

    @property
    def has_begun(self) -> bool:
        return self._begun is not None

    def close(self) -> None:
        try:
            if _is(self.handle, TransactionStatus.INTRANS, TransactionStatus.INERROR):
                self.handle.execute("ROLLBACK")
        except psycopg.OperationalError:
            self.handle.prepared.clear()  # it is broken, and the pool will see
        finally:
            self.handle.is_lent = False
            _forget_handler(self.handle)
            self._pool.putconn(self.handle)

    @property
    def is_broken(self) -> bool:
        return self.handle.closed


class _AsyncPsycopgEffect(AsyncEffect[AsyncPsycopgConnection]):
    """`_PsycopgEffect` for psycopg's AsyncConnection."""

    handle: _AsyncPooledConnection

    def __init__(
        self,
        pool: AsyncConnectionPool[_AsyncPooledConnection],
        handle: _AsyncPooledConnection,
        *,
        is_pooled: bool,
    ) -> None:
        self._is_pooled = is_pooled
        self._pool = pool
        self.handle = handle
        self._begun: Rows | None = None

    @classmethod
    async def begin(
        cls, pool: AsyncConnectionPool[_AsyncPooledConnection], *, is_pooled: bool
    ) -> _AsyncPsycopgEffect:
        handle = await pool.getconn()
        handle.is_lent = True
        return cls(pool, handle, is_pooled=is_pooled)

    async def run(self, step: Step[T]) -> T:
        if self._begun is not None:
            begun, self._begun = self._begun, None
            step = started(step, lambda _: begun)
        elif _is(self.handle, TransactionStatus.IDLE):
            step = await started_async(step, self._begin_with)
        return await execute_async(step, self.handle)

    async def _begin_with(self, statement: Statement | None) -> Rows:
        if statement is not None and not can_be_written_out(statement):
            await self._begin_with(None)
            cursor = await self.handle.execute(statement.sql.encode(), statement.params)
            return await cursor.fetchall()
        results = await self._send(begin_with(statement, self.handle.prepared))
        error = failure(results)
        if isinstance(error, errors.InvalidSqlStatementName):
            await self._rollback()
            results = await self._send(begin_with(statement, self.handle.prepared))
            error = failure(results)
        if error is not None:
            self.handle.prepared.clear()
            raise error
        return rows_of(results[-1])

    async def _send(self, statements: Sequence[str]) -> list[PGresult]:
        results = await self.handle.wait(sent(statements, self.handle.pgconn))
        if _is_last_word(results):
            await psycopg.AsyncConnection.close(self.handle)
        return results

    async def _rollback(self) -> None:
        self.handle.prepared.clear()
        await self._send(["ROLLBACK"])

    async def flush(self) -> None:
        """A driver connection holds nothing back."""

    async def commit(self, confirm: Step[bool], then: Step[Recorded] | None = None) -> None:
        if not _is(self.handle, TransactionStatus.INTRANS):
            raise NotWhole
        then = None if self._is_pooled else then
        committing = commit_if(first_of(confirm))
        beginning = begin_with(first_of(then), self.handle.prepared) if then else []
        results = await self._send([*committing, *beginning])
        check_committed(results, committing)
        if not failure(results):
            _forget_handler(self.handle)
            self._begun = rows_of(results[-1]) if then else None
        elif not self.handle.closed:
            await self._rollback()

    @property
    def has_begun(self) -> bool:
        return self._begun is not None

    async def close(self) -> None:
        try:
            if _is(self.handle, TransactionStatus.INTRANS, TransactionStatus.INERROR):
                await self.handle.execute("ROLLBACK")
        except psycopg.OperationalError:
            self.handle.prepared.clear()
        finally:
            self.handle.is_lent = False
            _forget_handler(self.handle)
            await self._pool.putconn(self.handle)

    @property
    def is_broken(self) -> bool:
        return self.handle.closed


def _has_ended(connection: PsycopgConnection | AsyncPsycopgConnection) -> bool:
    """Whether the server has closed an idle connection, as far as word of it came here."""
    try:
        for _ in range(2):  # its last words, and the end
            connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return connection.closed


def _has_arrived(connection: PsycopgConnection) -> bool:
    """Whether a notification came in behind the last answer, in the same read, or the end."""
    try:
        connection.pgconn.consume_input()
        return connection.pgconn.notifies() is not None
    except psycopg.OperationalError:
        return True


def _is_last_word(results: Sequence[PGresult]) -> bool:
    """Whether the session is over. Its last words may arrive before libpq sees that."""
    error = failure(results)
    return isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))
    )


def _is(connection: BaseConnection[Any], *statuses: TransactionStatus) -> bool:
    return connection.info.transaction_status in statuses


def _forget_handler(connection: PsycopgConnection | AsyncPsycopgConnection) -> None:
    """What a handler set on its connection is no business of the next one."""
    connection.row_factory = tuple_row
    connection.cursor_factory = (
        psycopg.Cursor if isinstance(connection, psycopg.Connection) else psycopg.AsyncCursor
    )

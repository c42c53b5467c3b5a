"""A job's effect on Django's own connection, so that the ORM writes inside of it.

The transaction is an outermost `atomic` of Django's, which jobq enters, and leaves: a task's own
`atomic` blocks are savepoints in it, and Django refuses `commit()` and `rollback()` there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import Error as DjangoError
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import IsolationLevel
from sqlalchemy.engine import URL

from jobq.database.base import Effect, NotWhole
from jobq.database.execute import execute
from jobq.database.postgres import CONFIGURE_LOCALLY, PostgresDatabase
from jobq.database.sqlalchemy import asking
from jobq.database.sqlite import SqliteDatabase
from jobq.django.connection import beginning
from jobq.errors import UnsupportedConnection
from jobq.protocol.values import Recorded
from jobq.store.step import Statement, Step

C = TypeVar("C")
T = TypeVar("T")


class DjangoEffect(Effect[BaseDatabaseWrapper]):
    """The calling thread's connection of an alias, in a transaction of jobq's."""

    def __init__(self, alias: str) -> None:
        self.handle = connections[alias]
        self._alias = alias
        _check_is_free(self.handle)
        self.handle.ensure_connection()
        self._atomic = transaction.atomic(using=alias)
        self._begin()
        self._driver = self.handle.connection
        self._is_open = True

    def _begin(self) -> None:
        self._atomic.__enter__()

    def run(self, step: Step[T]) -> T:
        return execute(step, self._driver)

    def flush(self) -> None:
        """Django's ORM holds nothing back."""

    def commit(self, confirm: Step[bool], then: Step[Recorded] | None = None) -> None:
        """What was registered with `on_commit` is left on the connection, to be run afterwards."""
        if not self._is_ours:
            raise NotWhole
        with asking():
            is_whole = self.run(confirm)
        if not is_whole:
            raise NotWhole
        # Run by Django while it leaves the block, a callback that fails would look like a COMMIT
        # that failed.
        callbacks, self.handle.run_on_commit = self.handle.run_on_commit, []
        self._is_open = False
        try:
            self._before_end()
            self._atomic.__exit__(None, None, None)
        except DjangoError:
            if self.is_broken:  # it may have been committed: whoever finds out runs them, or not
                self.handle.run_on_commit = callbacks
            raise
        self.handle.run_on_commit = callbacks

    @property
    def _is_ours(self) -> bool:
        """Whether Django, too, would commit what was begun here: it rolls back without a word after
        an error that a task swallowed."""
        return (
            self.handle.connection is self._driver
            and not self.handle.closed_in_transaction
            and not self.handle.needs_rollback
            and self.handle.atomic_blocks == [self._atomic]
        )

    def _before_end(self) -> None:
        """Give the driver's connection back what was changed about it for the transaction."""

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            if self.is_broken or self.handle.atomic_blocks != [self._atomic]:
                self._discard()
            else:
                self._before_end()
                self._atomic.__exit__(RuntimeError, None, None)
        elif self.is_broken:
            self._discard()

    def _discard(self) -> None:
        """Django makes another for this thread when it is asked for one."""
        callbacks = self.handle.run_on_commit
        self.handle.close()  # which forgets them
        self.handle.run_on_commit = callbacks
        if connections[self._alias] is self.handle:
            del connections[self._alias]

    @property
    def is_broken(self) -> bool:
        return bool(getattr(self._driver, "closed", False))


class PostgresEffect(DjangoEffect):
    """The session is Django's, and so is what is set for it: what jobq needs is set for the
    transaction."""

    def __init__(self, alias: str, configure: Statement | None) -> None:
        super().__init__(alias)
        self._configure = configure
        self._is_begun = False
        self._isolation_level = self._driver.isolation_level

    def run(self, step: Step[T]) -> T:
        if not self._is_begun:
            self._is_begun = True
            # psycopg says BEGIN with the first statement, which this one is.
            self._driver.isolation_level = IsolationLevel.READ_COMMITTED
            if self._configure is not None:
                step = _after(self._configure, step)
        return super().run(step)

    def close(self) -> None:
        super().close()
        # Returned to a pool in the middle of its transaction, it is somebody else's by now.
        if self.handle.connection is self._driver and not self.is_broken:
            self._driver.isolation_level = self._isolation_level


class SqliteEffect(DjangoEffect):
    """The write lock is taken first; and no statement of a task can end the transaction."""

    def _begin(self) -> None:
        with beginning(self.handle, "IMMEDIATE"):
            super()._begin()
        self.handle.connection.set_authorizer(_refuse_to_end)
        self.handle.execute_wrappers.append(_refuse_after_the_end)

    def _before_end(self) -> None:
        if _refuse_after_the_end in self.handle.execute_wrappers:
            self.handle.execute_wrappers.remove(_refuse_after_the_end)
        if self.handle.connection is self._driver and not self.handle.closed_in_transaction:
            self._driver.set_authorizer(None)


def _refuse_to_end(action: int, *_: object) -> int:
    """BEGIN, COMMIT and ROLLBACK, however they are said. Savepoints are another action."""
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK


def _refuse_after_the_end(
    execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]
) -> Any:
    """SQLite rolls back by itself after some errors. What follows would be committed statement by
    statement, without the commit record."""
    if not context["connection"].connection.in_transaction:
        raise transaction.TransactionManagementError(
            "the job's transaction was rolled back; nothing more can be done in it"
        )
    return execute(sql, params, many, context)


def _check_is_free(connection: BaseDatabaseWrapper) -> None:
    if not connection.settings_dict["AUTOCOMMIT"]:
        raise UnsupportedConnection(
            f"database {connection.alias!r} has AUTOCOMMIT False: a job's transaction is begun and "
            "committed by jobq, so leave AUTOCOMMIT out"
        )
    if connection.in_atomic_block:
        raise UnsupportedConnection(
            f"a transaction is open on Django's connection {connection.alias!r} already, so a job "
            "cannot have its own: run jobs outside of `atomic`, and in tests in a "
            "TransactionTestCase"
        )


def _after(first: Statement, step: Step[T]) -> Step[T]:
    yield first
    return (yield from step)


class DjangoPostgres(PostgresDatabase):
    """Effects on Django's connection of an alias besides those on jobq's own."""

    def __init__(self, url: URL, alias: str, **settings: Any) -> None:
        super().__init__(url, **settings)
        self._alias = alias

    def supports(self, kind: type[Any]) -> bool:
        return issubclass(kind, BaseDatabaseWrapper) or super().supports(kind)

    def begin_effect(self, kind: type[C]) -> Effect[C]:
        if not issubclass(kind, BaseDatabaseWrapper):
            return super().begin_effect(kind)
        # Behind a pooler each transaction is told already.
        configure = None if self.is_pooled else Statement(CONFIGURE_LOCALLY, self._idle_limit)
        with self._translated():
            return _begun(lambda: PostgresEffect(self._alias, configure))


class DjangoSqlite(SqliteDatabase):
    def __init__(self, url: URL, alias: str, **settings: Any) -> None:
        super().__init__(url, **settings)
        self._alias = alias

    def supports(self, kind: type[Any]) -> bool:
        return issubclass(kind, BaseDatabaseWrapper) or super().supports(kind)

    def begin_effect(self, kind: type[C]) -> Effect[C]:
        if not issubclass(kind, BaseDatabaseWrapper):
            return super().begin_effect(kind)
        with self._translated():
            return _begun(lambda: SqliteEffect(self._alias))


def _begun(begin: Callable[[], Effect[Any]]) -> Effect[Any]:
    """The driver's error, which jobq knows, instead of Django's."""
    try:
        return begin()
    except DjangoError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from error

"""Effect transactions given to handlers as SQLAlchemy sessions and connections."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar, cast

import psycopg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    AsyncTransaction,
)
from sqlalchemy.orm import Session

from jobq.database.base import AsyncEffect, Effect, NotWhole
from jobq.database.execute import execute
from jobq.protocol.values import Recorded
from jobq.store.step import Step

T = TypeVar("T")
C = TypeVar("C")


class SqlalchemyEffect(Effect[C]):
    """The transaction is begun as SQLAlchemy's own context manager would: after a handler rolls it
    back, SQLAlchemy refuses further statements. A connection's commit() is refused. A session
    joins it with "rollback_only": its commit() flushes and no more."""

    def __init__(self, engine: Engine, kind: type[C]) -> None:
        self._connection = engine.connect()
        try:
            self._transaction = self._connection.begin().__enter__()
            event.listen(self._connection, "commit", _refuse_commit)
            if issubclass(kind, Session):
                self._session: Session | None = kind(
                    bind=self._connection, join_transaction_mode="rollback_only"
                )
                self.handle = cast(C, self._session)
            else:
                self._session = None
                self.handle = cast(C, self._connection)
        except BaseException:
            self._connection.close()
            raise

    @property
    def driver(self) -> Any:
        return self._connection.connection.driver_connection

    def run(self, step: Step[T]) -> T:
        return execute(step, self.driver)

    def flush(self) -> None:
        if self._session is not None:
            self._session.commit()

    def commit(self, confirm: Step[bool], then: Step[Recorded] | None = None) -> None:
        with asking():
            is_whole = self.run(confirm)
        if not is_whole:
            raise NotWhole
        event.remove(self._connection, "commit", _refuse_commit)
        self._transaction.commit()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        if self.is_broken:
            self._connection.invalidate()
        self._transaction.close()
        self._connection.close()

    @property
    def is_broken(self) -> bool:
        return self._connection.invalidated or bool(getattr(self.driver, "closed", False))


class AsyncSqlalchemyEffect(AsyncEffect[C]):
    """`SqlalchemyEffect` for AsyncSession and AsyncConnection."""

    def __init__(
        self, connection: AsyncConnection, transaction: AsyncTransaction, kind: type[C]
    ) -> None:
        self._connection = connection
        self._transaction = transaction
        self._session: AsyncSession | None = None
        if issubclass(kind, AsyncSession):
            self._session = kind(bind=connection, join_transaction_mode="rollback_only")
            self.handle = cast(C, self._session)
        else:
            self.handle = cast(C, connection)

    @classmethod
    async def begin(cls, engine: AsyncEngine, kind: type[C]) -> Self:
        connection = await engine.connect()
        try:
            transaction = await connection.begin().__aenter__()
            event.listen(connection.sync_connection, "commit", _refuse_commit)
            return cls(connection, transaction, kind)
        except BaseException:
            await connection.close()
            raise

    async def run(self, step: Step[T]) -> T:
        return await self._connection.run_sync(lambda connection: execute(step, connection))

    async def flush(self) -> None:
        if self._session is not None:
            await self._session.commit()

    async def commit(self, confirm: Step[bool], then: Step[Recorded] | None = None) -> None:
        with asking():
            is_whole = await self.run(confirm)
        if not is_whole:
            raise NotWhole
        event.remove(self._connection.sync_connection, "commit", _refuse_commit)
        await self._transaction.commit()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self.is_broken:
            await self._connection.invalidate()
        await self._transaction.close()
        await self._connection.close()

    @property
    def is_broken(self) -> bool:
        connection = self._connection.sync_connection
        if connection is None or connection.invalidated:
            return True
        return bool(getattr(connection.connection.driver_connection, "closed", False))


@contextmanager
def asking() -> Iterator[None]:
    """What the closing question meets in a transaction that failed or ended inside the handler."""
    try:
        yield
    except (psycopg.errors.InFailedSqlTransaction, sqlite3.Error, SQLAlchemyError) as error:
        raise NotWhole from error


def _refuse_commit(connection: Connection) -> None:
    raise InvalidRequestError(
        "this transaction is a job's effect, and jobq commits it with the job's commit record: "
        "return from the handler instead"
    )

"""An SQLite connection whose transaction a handler cannot end and go on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, Self


class GuardedConnection(sqlite3.Connection):
    """While it is guarded, COMMIT and BEGIN are refused, however they are said.

    A ROLLBACK is allowed, and SQLite rolls back by itself after some errors. What follows would
    be committed statement by statement, without the commit record: so it is refused too.
    """

    is_guarded = False

    def guard(self) -> None:
        self.set_authorizer(_refuse_commit)
        self.is_guarded = True

    def unguard(self) -> None:
        self.is_guarded = False
        self.set_authorizer(None)

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or _GuardedCursor)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self.cursor().execute(sql, parameters)
        return cursor

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self.cursor().executemany(sql, parameters)
        return cursor


class _GuardedCursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        self._refuse_after_the_end()
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Self:
        self._refuse_after_the_end()
        return super().executemany(sql, parameters)

    def _refuse_after_the_end(self) -> None:
        connection = self.connection
        if (
            isinstance(connection, GuardedConnection)
            and connection.is_guarded
            and not connection.in_transaction
        ):
            raise sqlite3.OperationalError(
                "the effect's transaction was rolled back; nothing more can be done in it"
            )


def _refuse_commit(action: int, operation: str | None, *_: object) -> int:
    """The effect's transaction is jobq's to commit: `with connection:` and "COMMIT" are refused."""
    is_refused = action == sqlite3.SQLITE_TRANSACTION and operation != "ROLLBACK"
    return sqlite3.SQLITE_DENY if is_refused else sqlite3.SQLITE_OK

"""An SQLite connection whose transaction a handler cannot end and go on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, Self

# Worded as no handler words them. SQLite asks whether a statement may be run when it compiles it,
# and Python keeps what was compiled by its text: of these, a handler's COMMIT is not one.
BEGIN = "BEGIN IMMEDIATE /* jobq */"
COMMIT = "COMMIT /* jobq */"


class GuardedConnection(sqlite3.Connection):
    """While it is guarded, COMMIT and BEGIN are refused, however they are said.

    A ROLLBACK is allowed, and SQLite rolls back by itself after some errors. What follows would
    be committed statement by statement, without the commit record: so it is refused too.
    """

    is_guarded = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Once: each time it is set, SQLite compiles all of the connection's statements again.
        self.set_authorizer(self._authorize)

    def guard(self) -> None:
        self.is_guarded = True

    def unguard(self) -> None:
        self.is_guarded = False

    def _authorize(self, action: int, operation: str | None, *_: object) -> int:
        """The effect's transaction is jobq's to commit: "COMMIT" and `with connection:` are
        refused."""
        if not self.is_guarded or action != sqlite3.SQLITE_TRANSACTION or operation == "ROLLBACK":
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

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

"""A guarded SQLite connection commits in jobq's own words only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from jobq.database.guarded import BEGIN, COMMIT, GuardedConnection


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[GuardedConnection]:
    path = str(tmp_path / "guarded.db")
    with closing(
        sqlite3.connect(path, isolation_level=None, factory=GuardedConnection)
    ) as connection:
        connection.execute("CREATE TABLE t (n int)")
        # Compiled and kept, as after the first of many effects on a pooled connection.
        for _ in range(2):
            connection.execute(BEGIN)
            connection.guard()
            connection.execute("INSERT INTO t VALUES (1)")
            connection.unguard()
            connection.execute(COMMIT)
        connection.execute(BEGIN)
        connection.guard()
        yield connection


@pytest.mark.parametrize(
    "sql", ["COMMIT", "commit", "END", "COMMIT TRANSACTION", "BEGIN", "BEGIN IMMEDIATE"]
)
def test_a_handler_cannot_say_it(connection: GuardedConnection, sql: str) -> None:
    with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
        connection.execute(sql)
    assert connection.in_transaction


def test_nor_leave_it_to_the_driver(connection: GuardedConnection) -> None:
    with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
        connection.commit()
    with pytest.raises(sqlite3.DatabaseError, match="not authorized"), connection:
        connection.execute("INSERT INTO t VALUES (2)")
    with pytest.raises(sqlite3.OperationalError, match="rolled back"):
        connection.execute("INSERT INTO t VALUES (3)")
    assert not connection.in_transaction


def test_savepoints_are_its_own(connection: GuardedConnection) -> None:
    connection.execute("SAVEPOINT s")
    connection.execute("INSERT INTO t VALUES (4)")
    connection.execute("ROLLBACK TO s")
    connection.execute("RELEASE s")
    connection.unguard()
    connection.execute(COMMIT)
    assert connection.execute("SELECT count(*) FROM t").fetchall() == [(2,)]

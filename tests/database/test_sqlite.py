"""A file that nobody has opened yet is changed over to WAL by the first who does."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from jobq.database.open import open_database
from jobq.database.sqlite import SqliteDatabase

TIMEOUT_S = 30.0


@pytest.fixture
def rollback_url(sqlite_url: str) -> str:
    """Migrated, and in the mode that SQLite makes files in: by a service that has its own
    connections, say, or by VACUUM INTO."""
    with closing(sqlite3.connect(path_of(sqlite_url))) as connection:
        assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    return sqlite_url


@pytest.fixture
def database(rollback_url: str) -> Iterator[SqliteDatabase]:
    opened = open_database(make_url(rollback_url), schema="jobq")
    assert isinstance(opened, SqliteDatabase)
    with closing(opened):
        yield opened


def path_of(url: str) -> Path:
    return Path(str(make_url(url).database))


def mode_of(url: str) -> str:
    with closing(sqlite3.connect(path_of(url))) as connection:
        ((mode,),) = connection.execute("PRAGMA journal_mode")
        return str(mode)


def connect(database: SqliteDatabase) -> None:
    database.connect().close()


def connect_async(database: SqliteDatabase) -> None:
    async def begin() -> None:
        effect = await database.begin_effect_async(AsyncConnection)
        await effect.close()
        await database.aclose()

    asyncio.run(begin())


def test_a_migrated_file_is_in_wal_mode(sqlite_url: str) -> None:
    assert mode_of(sqlite_url) == "wal"


@pytest.mark.parametrize("connecting", [connect, connect_async])
def test_who_changes_the_mode_waits_for_who_writes(
    database: SqliteDatabase, rollback_url: str, connecting: Callable[[SqliteDatabase], None]
) -> None:
    """SQLite itself waits for nobody here: it fails at once, whatever its timeout is."""
    writing = sqlite3.connect(path_of(rollback_url), isolation_level=None)
    with closing(writing) as writer, ThreadPoolExecutor(1) as aside:
        writer.execute("BEGIN IMMEDIATE")
        opening = aside.submit(connecting, database)
        with pytest.raises(TimeoutError):
            opening.result(0.3)
        writer.execute("COMMIT")
        opening.result(TIMEOUT_S)

    assert mode_of(rollback_url) == "wal"

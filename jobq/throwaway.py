"""A queue of its own for as long as it is needed, beside whatever else a database has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from jobq import schema
from jobq.database.url import backend_of, parse_url
from jobq.embedded import EmbeddedPostgres
from jobq.errors import DatabaseUnavailable, InvalidDatabaseURL


@contextmanager
def server_of(given: str | None) -> Iterator[URL]:
    """The database that is given, or that of a throwaway server."""
    if given is not None:
        yield parse_url(given)
        return
    with EmbeddedPostgres() as server:
        yield parse_url(server.url())


@contextmanager
def queue_in(url: URL, name: str, made_by: str) -> Iterator[URL]:
    """A migrated, empty queue in the schema `name`, which is also its search path; on SQLite in the
    file that the URL names. Gone when it is over.

    `made_by` is the comment by which a schema left behind by a killed run is known as one's own.
    Raises DatabaseUnavailable, and InvalidDatabaseURL when something else has the name or the role
    may not create it.
    """
    queue = _in_file(url) if backend_of(url) == "sqlite" else _in_schema(url, name, made_by)
    with queue as own:
        yield own


@contextmanager
def _in_file(url: URL) -> Iterator[URL]:
    path = Path(str(url.database))
    if path.exists():
        raise InvalidDatabaseURL(
            f"{url!r}: {path} is there already, and this makes and deletes a file of its own: name "
            "one that does not exist"
        )
    try:
        schema.upgrade(url)
        yield url
    finally:
        for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
            file.unlink(missing_ok=True)


@contextmanager
def _in_schema(url: URL, name: str, made_by: str) -> Iterator[URL]:
    engine = create_engine(url, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            _drop(connection, url, name, made_by)  # of a run that was killed
            connection.execute(text(f"CREATE SCHEMA {name}"))
            connection.execute(text(f"COMMENT ON SCHEMA {name} IS '{made_by}'"))
    except OperationalError as error:
        raise DatabaseUnavailable(f"{url!r}: {error.orig}") from error
    except ProgrammingError as error:
        raise InvalidDatabaseURL(
            f"{url!r}: cannot make the schema {name} ({error.orig}): name a database in which this "
            "role may create schemas"
        ) from error
    own = url.update_query_dict({"options": f"-c search_path={name}"})
    try:
        schema.upgrade(own, schema=name)
        yield own
    finally:
        with engine.begin() as connection:
            _drop(connection, url, name, made_by)


def _drop(connection: Connection, url: URL, name: str, made_by: str) -> None:
    comment = connection.execute(
        text(
            "SELECT coalesce(obj_description(oid, 'pg_namespace'), '') FROM pg_namespace "
            "WHERE nspname = :name"
        ),
        {"name": name},
    ).scalar()
    if comment is None:
        return
    if comment != made_by:
        raise InvalidDatabaseURL(
            f"{url!r} has a schema {name} that jobq did not make: rename it, or name another "
            "database"
        )
    connection.execute(text(f"DROP SCHEMA {name} CASCADE"))

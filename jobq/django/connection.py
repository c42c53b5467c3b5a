"""Django's connections as jobq sees them: where they lead, and steps run on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import connections, transaction
from psycopg import pq
from sqlalchemy.engine import URL, make_url

from jobq.database.caller import run_in
from jobq.database.url import Backend, parse_url
from jobq.errors import InvalidDatabaseURL, UnsupportedConnection
from jobq.store.step import Step

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

T = TypeVar("T")


def backend_of(connection: BaseDatabaseWrapper) -> Backend:
    """Return which of jobq's backends a connection is to.

    Raises UnsupportedConnection for other databases, and for psycopg 2.
    """
    if connection.vendor == "sqlite":
        return "sqlite"
    if connection.vendor == "postgresql" and connection.Database.__name__ == "psycopg":
        return "postgresql"
    raise UnsupportedConnection(
        f"database {connection.alias!r} is {connection.display_name} through "
        f"{connection.Database.__name__}: jobq speaks to PostgreSQL through psycopg 3 and to SQLite"
    )


def url_of(connection: BaseDatabaseWrapper) -> URL:
    """Return the URL of the database that Django is set up to use, as jobq has them.

    Raises InvalidDatabaseURL for an SQLite database that only this connection can see, and
    UnsupportedConnection.
    """
    if backend_of(connection) == "postgresql":
        return _postgres_url(connection)
    name = str(connection.settings_dict["NAME"])
    if connection.is_in_memory_db():
        return parse_url("sqlite:///:memory:")  # raises, and says why
    if name.startswith("file:"):
        raise InvalidDatabaseURL(
            f"database {connection.alias!r} is {name!r}: give its NAME as a path, not as a URI"
        )
    return parse_url(URL.create("sqlite", database=name))


def _postgres_url(connection: BaseDatabaseWrapper) -> URL:
    """What Django connects with, without what only Django understands."""
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    given: dict[str, Any] = {
        name: str(value)
        for name, value in connection.get_connection_params().items()
        if name in known and name != "client_encoding"
    }
    if role := connection.settings_dict["OPTIONS"].get("assume_role"):
        given["options"] = f"{given.get('options', '')} -c role={role}".strip()
    # A socket's folder, or several hosts, can only stand in the query.
    url = make_url("postgresql://").set(
        username=given.pop("user", None),
        password=given.pop("password", None),
        database=given.pop("dbname", None),
        query=given,
    )
    return parse_url(url)


def run_on(alias: str, step: Step[T]) -> T:
    """Run `step` in the current transaction of Django's connection, or in one of its own.

    Raises UnsupportedConnection, NotMigrated or NotPermitted; what the database refuses otherwise
    is one of Django's own errors.
    """
    connection = connections[alias]
    backend = backend_of(connection)
    connection.validate_no_broken_transaction()
    with transaction.atomic(using=alias, savepoint=False), connection.wrap_database_errors:
        return run_in(connection.connection, step, backend)


def look_on(alias: str, step: Step[T]) -> T:
    """`run_on` for a step that only reads: on SQLite it waits for no writer, whatever the mode of
    the database's transactions is."""
    connection = connections[alias]
    if connection.vendor != "sqlite":
        return run_on(alias, step)
    with beginning(connection, None):
        return run_on(alias, step)


@contextmanager
def beginning(connection: BaseDatabaseWrapper, mode: str | None) -> Iterator[None]:
    """For a block, have Django begin its transactions on SQLite in a mode; None is SQLite's own."""
    connection.ensure_connection()
    before, connection.transaction_mode = connection.transaction_mode, mode
    try:
        yield
    finally:
        connection.transaction_mode = before

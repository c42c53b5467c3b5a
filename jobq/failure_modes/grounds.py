"""Where the failure modes take place for a user: a shop made new for every scenario."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from jobq import schema
from jobq.database.url import backend_of, parse_url
from jobq.embedded import EmbeddedPostgres
from jobq.errors import InvalidDatabaseURL, MissingExtra
from jobq.failure_modes.catalogue import FailureMode, Needs
from jobq.failure_modes.shop import Shop

SCHEMA = "jobq_fm"
OURS = "made by jobq fm run, and dropped by it"


class NotHere(Exception):
    """This failure mode cannot be played on this database; the message says why."""


@contextmanager
def database(given: str | None) -> Iterator[URL]:
    """The database that is given, or a throwaway server's."""
    if given is not None:
        yield parse_url(given)
        return
    with EmbeddedPostgres() as server:
        yield parse_url(server.url())


@contextmanager
def fresh_shop(url: URL, mode: FailureMode) -> Iterator[Shop]:
    """A shop for one scenario, gone when it is over.

    Raises NotHere, and InvalidDatabaseURL when it would have to touch what is not its own.
    """
    if reason := mode.not_on(backend_of(url)):
        raise NotHere(reason)
    if mode.needs is Needs.SERVER:
        shop = _on_own_server(mode)
    elif backend_of(url) == "sqlite":
        shop = _in_file(url)
    else:
        shop = _in_schema(url)
    with shop as opened:
        yield opened


@contextmanager
def _on_own_server(mode: FailureMode) -> Iterator[Shop]:
    try:
        server = EmbeddedPostgres()
    except MissingExtra as missing:
        raise NotHere(f"needs {mode.needs}: {missing}") from missing
    with server:
        schema.upgrade(server.url())
        with Shop.open(server.url(), server=server) as shop:
            yield shop


@contextmanager
def _in_file(url: URL) -> Iterator[Shop]:
    path = Path(str(url.database))
    if path.exists():
        raise InvalidDatabaseURL(
            f"{url!r}: {path} is there already, and every scenario makes and deletes a file of its "
            "own: name one that does not exist"
        )
    given = url.render_as_string(hide_password=False)
    try:
        schema.upgrade(url)
        with Shop.open(given) as shop:
            yield shop
    finally:
        for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
            file.unlink(missing_ok=True)


@contextmanager
def _in_schema(url: URL) -> Iterator[Shop]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        _drop_schema(connection, url)  # of a run that was killed
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        connection.execute(text(f"COMMENT ON SCHEMA {SCHEMA} IS '{OURS}'"))
    # The ledger lies in the schema too, where the shop's own statements find it by search_path.
    own = url.update_query_dict({"options": f"-c search_path={SCHEMA}"})
    try:
        schema.upgrade(own, schema=SCHEMA)
        with Shop.open(own.render_as_string(hide_password=False), schema=SCHEMA) as shop:
            yield shop
    finally:
        with engine.begin() as connection:
            _drop_schema(connection, url)


def _drop_schema(connection: Connection, url: URL) -> None:
    comment = connection.execute(
        text(
            "SELECT coalesce(obj_description(oid, 'pg_namespace'), '') FROM pg_namespace "
            "WHERE nspname = :name"
        ),
        {"name": SCHEMA},
    ).scalar()
    if comment is None:
        return
    if comment != OURS:
        raise InvalidDatabaseURL(
            f"{url!r} has a schema {SCHEMA} that jobq did not make: rename it, or name another "
            "database"
        )
    connection.execute(text(f"DROP SCHEMA {SCHEMA} CASCADE"))

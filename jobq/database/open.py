"""From a URL to its backend's connections."""

from __future__ import annotations

import re

from sqlalchemy.engine import URL

from jobq.database.base import Database
from jobq.database.postgres import PostgresDatabase
from jobq.database.sqlite import SqliteDatabase
from jobq.database.url import backend_of
from jobq.errors import InvalidOption


def open_database(
    url: URL,
    *,
    schema: str,
    max_connections: int = 10,
    idle_in_transaction_s: float | None = None,
    is_pooled: bool = False,
) -> Database:
    """Return the connections of a URL that `parse_url` returned. Nothing connects yet."""
    check_schema_name(schema)
    if backend_of(url) == "sqlite":
        if is_pooled:
            raise InvalidOption("pooled=True is for PostgreSQL behind a pooler: leave it out")
        return SqliteDatabase(url, max_connections=max_connections)
    return PostgresDatabase(
        url,
        schema=schema,
        max_connections=max_connections,
        idle_in_transaction_s=idle_in_transaction_s,
        is_pooled=is_pooled,
    )


def check_schema_name(schema: str) -> None:
    """Raise InvalidOption unless `schema` needs no quoting in statements and no escaping in
    drivers."""
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema):
        raise InvalidOption(
            f"schema {schema!r}: use lower-case letters, digits and underscores, at most 63"
        )

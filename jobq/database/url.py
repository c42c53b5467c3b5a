"""Database URLs: which backend one names, and how each library wants it spelt."""

from __future__ import annotations

import os
import re
from typing import Literal

from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from jobq.errors import InvalidDatabaseURL

Backend = Literal["postgresql", "sqlite"]

URL_VARIABLE = "JOBQ_DATABASE_URL"

_PASSWORD = re.compile("//.*@")

_DRIVERS: dict[str, tuple[Backend, str]] = {
    "postgresql": ("postgresql", "postgresql+psycopg"),
    "postgres": ("postgresql", "postgresql+psycopg"),
    "sqlite": ("sqlite", "sqlite"),
}


def parse_url(url: str | URL | None = None) -> URL:
    """Return `url`, or the one in `JOBQ_DATABASE_URL`, as jobq uses it.

    A driver in the URL (`postgresql+asyncpg://`) is replaced by jobq's own, psycopg 3: the URL
    says where the database is, jobq decides how to speak to it.

    Raises InvalidDatabaseURL when there is none, or it cannot be used.
    """
    given = url or os.environ.get(URL_VARIABLE)
    if not given:
        raise InvalidDatabaseURL(
            "no database URL: pass one, as in JobQueue('postgresql://localhost/shop') or with "
            f"--database-url, or set {URL_VARIABLE}"
        )
    try:
        parsed = make_url(given)
    except ArgumentError as error:
        raise InvalidDatabaseURL(
            f"{_PASSWORD.sub('//***@', str(given))!r} is not a database URL: write "
            "postgresql://user:password@host/database or sqlite:///path/to/file.db"
        ) from error
    known = _DRIVERS.get(parsed.get_backend_name())
    if known is None:
        raise InvalidDatabaseURL(
            f"jobq speaks to PostgreSQL and SQLite, not to {parsed.get_backend_name()!r}: use a "
            "postgresql:// or sqlite:/// URL"
        )
    backend, driver = known
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InvalidDatabaseURL(
            "an in-memory SQLite database is private to one connection, and jobq needs several: "
            "name a file, as in sqlite:///jobs.db"
        )
    return parsed.set(drivername=driver)


def backend_of(url: URL) -> Backend:
    """Return the backend of a URL that `parse_url` returned."""
    return "sqlite" if url.get_backend_name() == "sqlite" else "postgresql"


def conninfo(url: URL) -> str:
    """Return a PostgreSQL URL as libpq's own connection string.

    Not as a URL: SQLAlchemy and libpq disagree on how a space is written in one.
    """
    _, parameters = url.get_dialect()().create_connect_args(url)
    return make_conninfo(**parameters)

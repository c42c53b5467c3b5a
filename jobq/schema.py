"""Migrations, as code: what `alembic upgrade head` does, for programs and the `jobq` command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from jobq.database.open import check_schema_name
from jobq.database.url import backend_of, parse_url
from jobq.errors import (
    DatabaseUnavailable,
    InvalidDatabaseURL,
    InvalidOption,
    NotPermitted,
)
from jobq.models import DEFAULT_SCHEMA, SQLITE_PREFIX
from jobq.revisions import check_revision, migrations_path, revisions


def upgrade(
    url: str | URL | None = None, *, schema: str = DEFAULT_SCHEMA, revision: str = "head"
) -> None:
    """Bring the database to `revision`, in one transaction. Safe to run twice, and from several
    places at once.

    Raises DatabaseUnavailable, InvalidDatabaseURL, InvalidOption or SchemaTooNew.
    """
    config = _config(url, schema)
    with _translated(config.attributes["url"], schema):
        command.upgrade(config, revision)


def downgrade(
    url: str | URL | None = None, *, schema: str = DEFAULT_SCHEMA, revision: str = "base"
) -> None:
    """Take the database back to `revision`; `base` removes jobq's tables and all jobs in them.

    Raises as `upgrade` does.
    """
    config = _config(url, schema)
    with _translated(config.attributes["url"], schema):
        command.downgrade(config, revision)


def current_revision(url: str | URL | None = None, *, schema: str = DEFAULT_SCHEMA) -> str | None:
    """Return the revision the database is at, or None when it has never been migrated."""
    parsed = parse_url(url)
    on_sqlite = backend_of(parsed) == "sqlite"
    check_schema_name(schema)
    with (
        _translated(parsed, schema),
        create_engine(parsed, poolclass=NullPool).connect() as connection,
    ):
        return MigrationContext.configure(
            connection,
            opts={
                "version_table": f"{SQLITE_PREFIX}alembic_version"
                if on_sqlite
                else "alembic_version",
                "version_table_schema": None if on_sqlite else schema,
            },
        ).get_current_revision()


def _config(url: str | URL | None, schema: str) -> Config:
    check_schema_name(schema)
    config = Config()
    config.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = parse_url(url)
    config.attributes["schema"] = schema
    return config


@contextmanager
def _translated(url: URL, schema: str) -> Iterator[None]:
    """Turn Alembic's and the driver's errors into jobq's: what happened, and what to do."""
    try:
        yield
    except CommandError as error:
        current = current_revision(url, schema=schema)
        if current is not None and current not in revisions():
            check_revision(current)  # says that a newer jobq migrated it
        raise InvalidOption(
            f"{error}: this version has the revisions base, {', '.join(revisions())} and head"
        ) from error
    except DBAPIError as error:
        raise _explained(url, error) from error


def _explained(url: URL, error: DBAPIError) -> Exception:
    reason = str(error.orig).strip()
    if backend_of(url) == "sqlite":
        folder = Path(str(url.database)).parent
        if not url.query and not folder.is_dir():
            return InvalidDatabaseURL(f"{url!r}: there is no folder {folder}: create it first")
        if "file is not a database" in reason:
            return InvalidDatabaseURL(f"{url!r} names a file that is not an SQLite database")
    if isinstance(error.orig, InsufficientPrivilege):
        return NotPermitted(
            f"{url!r}: {reason}: migrate as a role that may create schemas in this database"
        )
    if isinstance(error, OperationalError):
        return DatabaseUnavailable(f"{url!r}: {reason}")
    return error

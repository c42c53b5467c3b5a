"""Migrations, as code: what `alembic upgrade head` does, for programs and the `jobq` command."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from psycopg.errors import DeadlockDetected, InsufficientPrivilege, LockNotAvailable
from sqlalchemy import create_engine, text
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
from jobq.revisions import LOCK_TIMEOUT_S, check_revision, migrations_path, revisions

LOCK_TRIES = 5
LOCK_PAUSE_S = 2.0
"""From one try to the next; claims that waited behind it go through."""
_LOCKED = (LockNotAvailable, DeadlockDetected)
IN_THE_WAY = """
SELECT activity.pid, activity.application_name, activity.state,
       extract(epoch FROM clock_timestamp() - min(activity.xact_start))::float8
FROM pg_locks
JOIN pg_class ON pg_class.oid = pg_locks.relation
JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace
JOIN pg_stat_activity AS activity ON activity.pid = pg_locks.pid
WHERE pg_locks.granted AND pg_namespace.nspname = :schema AND pg_class.relkind IN ('r', 'p')
  AND activity.pid <> pg_backend_pid() AND activity.datname = current_database()
GROUP BY activity.pid, activity.application_name, activity.state
ORDER BY min(activity.xact_start)
LIMIT 3
"""


def upgrade(
    url: str | URL | None = None, *, schema: str = DEFAULT_SCHEMA, revision: str = "head"
) -> None:
    """Bring the database to `revision`, in one transaction. Safe to run twice, and from several
    places at once.

    Raises DatabaseUnavailable, InvalidDatabaseURL, InvalidOption or SchemaTooNew.
    """
    config = alembic_config(url, schema)
    migrate(config, lambda: command.upgrade(config, revision))


def downgrade(
    url: str | URL | None = None, *, schema: str = DEFAULT_SCHEMA, revision: str = "base"
) -> None:
    """Take the database back to `revision`; `base` removes jobq's tables and all jobs in them.

    Raises as `upgrade` does.
    """
    config = alembic_config(url, schema)
    migrate(config, lambda: command.downgrade(config, revision))


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


def migrate(config: Config, run: Callable[[], None]) -> None:
    """Run migrations, which give up soon when a table is locked, again when it is.

    While they wait for a table, every claim waits behind them; in between the claims go on.
    """
    url, schema = config.attributes["url"], config.attributes["schema"]
    with _translated(url, schema):
        for tries_left in reversed(range(LOCK_TRIES)):
            try:
                run()
            except DBAPIError as error:
                if not isinstance(error.orig, _LOCKED) or not tries_left:
                    raise
                time.sleep(LOCK_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311
            else:
                return


def alembic_config(url: str | URL | None = None, schema: str = DEFAULT_SCHEMA) -> Config:
    """Return what Alembic needs to know. Raises InvalidDatabaseURL or InvalidOption."""
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
        raise _explained(url, schema, error) from error


def _in_the_way(url: URL, schema: str) -> str:
    """Who has a lock on one of the tables, the oldest transaction first."""
    with create_engine(url, poolclass=NullPool).connect() as connection:
        found = connection.execute(text(IN_THE_WAY), {"schema": schema}).all()
    if not found:
        return "Whoever held them is gone by now."
    who = "; ".join(
        f"process {pid} ({name or 'unnamed'}, {state or 'of another role'}, in its transaction for "
        f"{age_s or 0:.0f} s)"
        for pid, name, state, age_s in found
    )
    return f"They are held by {who}."


def _explained(url: URL, schema: str, error: DBAPIError) -> Exception:
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
    if isinstance(error.orig, _LOCKED):
        return DatabaseUnavailable(
            f"{url!r}: the migration could not lock jobq's tables in {LOCK_TRIES} tries of "
            f"{LOCK_TIMEOUT_S:g} s, and changed nothing. {_in_the_way(url, schema)} "
            "Try again when no transaction stays open on them"
        )
    if isinstance(error, OperationalError):
        return DatabaseUnavailable(f"{url!r}: {reason}")
    return error

"""Migrations, as code: bring a database to this version's schema, and tell whether it is there."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from jobq.database.url import backend_of, parse_url
from jobq.errors import NotMigrated, SchemaTooNew
from jobq.models import DEFAULT_SCHEMA, SQLITE_PREFIX


@cache
def migrations_path() -> Path:
    """Return the folder of the migrations: in the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    shipped = package / "migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


@cache
def revisions() -> tuple[str, ...]:
    """Return this version's revisions, oldest first: the numbers the files begin with."""
    files = (migrations_path() / "versions").glob("[0-9]*_*.py")
    return tuple(sorted(file.name.split("_")[0] for file in files))


def upgrade(
    url: str | URL | None = None, *, schema: str = DEFAULT_SCHEMA, revision: str = "head"
) -> None:
    """Bring the database to `revision`, in one transaction on PostgreSQL. Safe to run twice, and
    from several places at once."""
    command.upgrade(_config(url, schema), revision)


def downgrade(
    url: str | URL | None = None, *, schema: str = DEFAULT_SCHEMA, revision: str = "base"
) -> None:
    """Take the database back to `revision`; `base` removes jobq's tables and all jobs in them."""
    command.downgrade(_config(url, schema), revision)


def current_revision(url: str | URL | None = None, *, schema: str = DEFAULT_SCHEMA) -> str | None:
    """Return the revision the database is at, or None when it has never been migrated."""
    parsed = parse_url(url)
    on_sqlite = backend_of(parsed) == "sqlite"
    with create_engine(parsed, poolclass=NullPool).connect() as connection:
        return MigrationContext.configure(
            connection,
            opts={
                "version_table": f"{SQLITE_PREFIX}alembic_version"
                if on_sqlite
                else "alembic_version",
                "version_table_schema": None if on_sqlite else schema,
            },
        ).get_current_revision()


def check_revision(current: str | None) -> None:
    """Raise NotMigrated or SchemaTooNew unless `current` is this version's head."""
    known = revisions()
    if current == known[-1]:
        return
    if current is not None and current not in known:
        raise SchemaTooNew(
            f"the database is at jobq revision {current!r}, which this version does not know "
            f"(its newest is {known[-1]!r}): upgrade the jobq package, or downgrade the database "
            "with the version that migrated it"
        )
    found = "has no jobq tables" if current is None else f"is at jobq revision {current!r}"
    raise NotMigrated(
        f"the database {found} and needs revision {known[-1]!r}: run `jobq upgrade` against it"
    )


def _config(url: str | URL | None, schema: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = parse_url(url)
    config.attributes["schema"] = schema
    return config


__all__ = [
    "check_revision",
    "current_revision",
    "downgrade",
    "migrations_path",
    "revisions",
    "upgrade",
]

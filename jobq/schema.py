"""Migrations, as code: what `alembic upgrade head` does, for programs and the `jobq` command."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from jobq.database.url import backend_of, parse_url
from jobq.models import DEFAULT_SCHEMA, SQLITE_PREFIX
from jobq.revisions import migrations_path


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


def _config(url: str | URL | None, schema: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = parse_url(url)
    config.attributes["schema"] = schema
    return config

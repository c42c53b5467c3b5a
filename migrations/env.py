"""Alembic's environment: finds the database, and keeps to jobq's own tables in it.

The URL is looked for in `-x url=`, the caller's `config.attributes`, `sqlalchemy.url` of the
ini file, `JOBQ_DATABASE_URL`; the schema in `-x schema=`, `config.attributes`, `JOBQ_SCHEMA`.
"""

from __future__ import annotations

import os
from typing import Any

from alembic import context
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from jobq.database.open import check_schema_name
from jobq.database.sqlite import BUSY_TIMEOUT_S, prepare
from jobq.database.url import backend_of, parse_url
from jobq.models import DEFAULT_SCHEMA, SQLITE_PREFIX, metadata_for
from jobq.revisions import LOCK_TIMEOUT_S, MIGRATION_LOCK, TURN_TIMEOUT_S

config = context.config
arguments = context.get_x_argument(as_dictionary=True)
url = parse_url(
    arguments.get("url")
    or config.attributes.get("url")
    or config.get_main_option("sqlalchemy.url", default=None)
)
backend = backend_of(url)
schema = (
    arguments.get("schema")
    or config.attributes.get("schema")
    or os.environ.get("JOBQ_SCHEMA")
    or DEFAULT_SCHEMA
)
check_schema_name(schema)
# The migrations read it on PostgreSQL; SQLite has no schemas.
config.attributes["schema"] = schema


def is_ours(name: str | None, type_: str, parent: Any) -> bool:
    """Keep `alembic check` and autogenerate away from the service's own tables."""
    if type_ == "schema":
        return name == (schema if backend == "postgresql" else None)
    if type_ == "table":
        if backend == "sqlite":
            return name is not None and name.startswith(SQLITE_PREFIX)
        return bool(parent.get("schema_name") == schema)
    return True


def engine() -> Engine:
    if backend == "postgresql":
        return create_engine(url, poolclass=NullPool)
    # sqlite3 itself begins no transaction before DDL: a migration would commit table by table,
    # and two at once would meet halfway. With the write lock taken first they take turns.
    options = {"isolation_level": None, "timeout": BUSY_TIMEOUT_S}
    engine = create_engine(url, poolclass=NullPool, connect_args=options)
    event.listen(engine, "connect", lambda driver, _: prepare(driver))
    event.listen(engine, "begin", lambda began: began.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def migrate(connection: Connection | None) -> None:
    context.configure(
        connection=connection,
        url=None if connection is not None else url,
        dialect_name=backend,
        target_metadata=metadata_for(backend, schema),
        include_schemas=backend == "postgresql",
        include_name=is_ours,
        version_table=f"{SQLITE_PREFIX}alembic_version"
        if backend == "sqlite"
        else "alembic_version",
        version_table_schema=schema if backend == "postgresql" else None,
        literal_binds=connection is None,
        render_as_batch=backend == "sqlite",
        transactional_ddl=True,
    )
    with context.begin_transaction():
        if connection is not None and backend == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{TURN_TIMEOUT_S:g}s'"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            # While a migration waits for a table, every claim waits behind it: give up instead.
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S:g}s'"))
        if backend == "postgresql":
            context.execute(CreateSchema(schema, if_not_exists=True))
        context.run_migrations()


if context.is_offline_mode():
    migrate(None)
else:
    with engine().connect() as connection:
        migrate(connection)
        connection.commit()

"""`alembic` from a checkout, as a user runs it: a process in the repository's root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import psycopg
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from jobq import schema
from jobq.database.open import open_database
from jobq.database.url import parse_url
from jobq.protocol.values import JobRequest
from jobq.revisions import migrations_path, revisions

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60


def alembic(*commands: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Alembic's command lines one after the other, until one fails. One process: to start
    and to import SQLAlchemy takes longer than to migrate."""
    code = "import sys; from alembic.config import main; [main(c.split()) for c in sys.argv[1:]]"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JOBQ_")}
    return subprocess.run(
        [sys.executable, "-c", code, *commands],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=ROOT,
        env=inherited | variables,
    )


def succeed(finished: subprocess.CompletedProcess[str]) -> str:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def engine_of(url: str) -> Engine:
    return create_engine(parse_url(url), poolclass=NullPool)


def tables_of(url: str, of_schema: str = "jobq") -> set[str]:
    """jobq's tables by their bare names."""
    if url.startswith("sqlite"):
        names = inspect(engine_of(url)).get_table_names()
        return {name.removeprefix("jobq_") for name in names if name.startswith("jobq_")}
    return set(inspect(engine_of(url)).get_table_names(schema=of_schema))


def enqueue_one(url: str, of_schema: str = "jobq") -> int:
    database = open_database(parse_url(url), schema=of_schema)
    try:
        (job_id,) = database.run(
            database.store.enqueue([JobRequest("t", "{}", "default", 0, 5, None, 0.0)])
        )
    finally:
        database.close()
    return job_id


def test_up_check_down_and_up_again(empty_url: str) -> None:
    checked = succeed(alembic("upgrade head", "check", JOBQ_DATABASE_URL=empty_url))
    assert "No new upgrade operations detected" in checked
    enqueue_one(empty_url)

    elsewhere = "sqlite:////nowhere/at/all.db"  # -x url= outranks the variable
    x = f"-x url={empty_url}"
    commands = (f"{x} downgrade base", f"{x} upgrade head", f"{x} check")
    succeed(alembic(*commands, JOBQ_DATABASE_URL=elsewhere))
    assert schema.current_revision(empty_url) == revisions()[-1]
    assert enqueue_one(empty_url) == 1, "the downgrade took the old jobs away"


def test_a_schema_of_another_name(empty_postgres_url: str) -> None:
    url = empty_postgres_url
    succeed(
        alembic(
            "-x schema=order upgrade head",
            "check",
            JOBQ_DATABASE_URL=url,
            JOBQ_SCHEMA="order",
        )
    )

    assert "jobs" in tables_of(url, "order")
    assert tables_of(url, "jobq") == set()
    assert enqueue_one(url, "order") == 1, "a reserved word is a name like any other"
    assert schema.current_revision(url, schema="order") == revisions()[-1]
    assert schema.current_revision(url) is None


def test_a_services_own_tables_and_history_are_left_alone(empty_url: str) -> None:
    own = engine_of(empty_url)
    with own.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('cafe')"))
        connection.execute(text("CREATE TABLE orders (id integer PRIMARY KEY, jobs text)"))

    run = alembic("upgrade head", "check", "downgrade base", JOBQ_DATABASE_URL=empty_url)
    assert "No new upgrade operations detected" in succeed(run)

    with own.connect() as connection:
        versions = connection.execute(text("SELECT version_num FROM alembic_version")).all()
    assert versions == [("cafe",)]
    assert tables_of(empty_url) == {"alembic_version"}, "the downgrade left tables behind"
    assert {"alembic_version", "orders"} <= set(inspect(own).get_table_names())


def test_check_tells_of_a_table_that_differs_from_the_models(database_url: str) -> None:
    """Or a check that always passes would pass here."""
    table = "jobq_jobs" if database_url.startswith("sqlite") else "jobq.jobs"
    with engine_of(database_url).begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} ADD COLUMN extra integer"))

    checked = alembic("check", JOBQ_DATABASE_URL=database_url)
    assert checked.returncode != 0
    assert "remove_column" in checked.stdout + checked.stderr


def test_offline_sql_is_what_an_administrator_can_run(empty_postgres_url: str) -> None:
    script = succeed(alembic("upgrade head --sql", JOBQ_DATABASE_URL=empty_postgres_url))
    assert script.startswith("BEGIN;")
    with engine_of(empty_postgres_url).connect() as connection:
        connection.connection.cursor().execute(script)
    assert schema.current_revision(empty_postgres_url) == revisions()[-1]


def test_revisions_are_those_of_alembics_script_directory() -> None:
    """The worker reads them from the files' names, without Alembic."""
    config = Config()
    config.set_main_option("script_location", str(migrations_path()))
    config.set_main_option("path_separator", "os")
    scripts = list(ScriptDirectory.from_config(config).walk_revisions())

    assert list(revisions()) == [script.revision for script in reversed(scripts)]
    assert [script.down_revision for script in reversed(scripts)] == [None, *revisions()[:-1]]


def test_a_password_with_signs_of_its_own_reaches_the_server(postgres_url: str) -> None:
    """A % is Alembic's for interpolation, and a URL's for an escape."""
    role, password = f"awkward_{uuid4().hex}", "p%40ss%word/@:"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{password}'")
    awkward = make_url(postgres_url).set(username=role, password=password)
    rendered = awkward.render_as_string(hide_password=False)
    try:
        assert schema.current_revision(rendered) == revisions()[-1]
        schema.upgrade(rendered)
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"DROP ROLE {role}")

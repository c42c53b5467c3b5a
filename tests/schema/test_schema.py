"""`jobq.schema`: migrations as code, and what is said when they cannot be done."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from jobq import schema
from jobq.database.open import open_database
from jobq.database.sqlite import check_sqlite_version
from jobq.database.url import parse_url
from jobq.errors import (
    DatabaseUnavailable,
    InvalidDatabaseURL,
    InvalidOption,
    JobqError,
    NotMigrated,
    SchemaTooNew,
    UnsupportedDatabase,
)
from jobq.revisions import check_revision, revisions

HEAD = revisions()[-1]
TIMEOUT_S = 60
NOBODY_LISTENS = "postgresql://127.0.0.1:1/shop"


def execute(url: str, statement: str) -> None:
    """Run a statement written for the schema jobq on PostgreSQL."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(str(make_url(url).database), isolation_level=None)
        connection.execute(statement.replace("jobq.", "jobq_"))
        connection.close()
        return
    with psycopg.connect(url, autocommit=True) as postgres:
        postgres.execute(statement)


def check(url: str) -> None:
    open_database(parse_url(url), schema="jobq").check()


def test_twice_is_once(empty_url: str) -> None:
    schema.upgrade(empty_url)
    schema.upgrade(empty_url)
    check(empty_url)


def test_several_upgrades_at_once(empty_url: str) -> None:
    """Two deploys: both end well, whoever comes first."""
    everyone_is_ready = threading.Barrier(2, timeout=TIMEOUT_S)
    code = (
        "import sys; from jobq import schema; print('ready', flush=True); sys.stdin.readline();"
        "schema.upgrade()"
    )
    deploys = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"JOBQ_DATABASE_URL": empty_url},
        )
        for _ in range(everyone_is_ready.parties)
    ]
    outputs: dict[int, str] = {}

    def run(number: int, deploy: subprocess.Popen[str]) -> None:
        assert deploy.stdout is not None
        deploy.stdout.readline()
        everyone_is_ready.wait()
        outputs[number], _ = deploy.communicate("go\n", timeout=TIMEOUT_S)

    threads = [threading.Thread(target=run, args=item) for item in enumerate(deploys)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert [deploy.wait(TIMEOUT_S) for deploy in deploys] == [0, 0], outputs
    check(empty_url)


def test_an_upgrade_waits_for_the_writer_and_changes_nothing_before(empty_sqlite_url: str) -> None:
    """On SQLite an upgrade is one transaction too: it begins with the write lock."""
    path = str(make_url(empty_sqlite_url).database)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    upgrade = threading.Thread(target=schema.upgrade, args=(empty_sqlite_url,))
    upgrade.start()
    upgrade.join(0.2)
    assert upgrade.is_alive()
    writer.execute("CREATE TABLE orders (id integer)")
    writer.execute("COMMIT")
    upgrade.join(TIMEOUT_S)
    writer.close()
    assert not upgrade.is_alive(), "the upgrade did not end when the writer had"
    check(empty_sqlite_url)


def test_an_upgrade_that_fails_leaves_nothing_behind(empty_url: str) -> None:
    """A table in the way, created last: all that the migration made before is rolled back."""
    if empty_url.startswith("postgresql"):
        execute(empty_url, "CREATE SCHEMA jobq")
    execute(empty_url, "CREATE TABLE jobq.workers (id integer)")
    with pytest.raises(Exception, match="workers"):
        schema.upgrade(empty_url)
    execute(empty_url, "DROP TABLE jobq.workers")
    schema.upgrade(empty_url)
    check(empty_url)


class TestNotMigrated:
    def test_an_empty_database(self, empty_postgres_url: str) -> None:
        with pytest.raises(NotMigrated, match=r"has no jobq tables.*run `jobq upgrade`"):
            check(empty_postgres_url)

    def test_an_empty_file(self, empty_sqlite_url: str) -> None:
        Path(str(make_url(empty_sqlite_url).database)).touch()
        with pytest.raises(NotMigrated, match=r"has no jobq tables.*run `jobq upgrade`"):
            check(empty_sqlite_url)

    def test_no_file(self, empty_sqlite_url: str) -> None:
        with pytest.raises(NotMigrated, match=r"no database file .*empty\.db: run `jobq upgrade`"):
            check(empty_sqlite_url)
        path = Path(str(make_url(empty_sqlite_url).database))
        assert not path.exists(), "asking is not making"

    def test_after_a_downgrade(self, database_url: str) -> None:
        schema.downgrade(database_url)
        with pytest.raises(NotMigrated, match="has no jobq tables"):
            check(database_url)

    def test_an_older_revision(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("jobq.revisions.revisions", lambda: ("0001", "0002"))
        with pytest.raises(NotMigrated, match=r"is at jobq revision '0001' and needs.*'0002'"):
            check_revision("0001")


def test_a_newer_revision_is_told_as_such(database_url: str) -> None:
    execute(database_url, "UPDATE jobq.alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaTooNew, match=r"'9999'.*does not know.*upgrade the jobq package"):
        check(database_url)
    with pytest.raises(SchemaTooNew, match="'9999'"):
        schema.upgrade(database_url)
    with pytest.raises(SchemaTooNew, match="'9999'"):
        schema.downgrade(database_url)


def test_an_unknown_revision_is_refused_with_those_there_are(database_url: str) -> None:
    with pytest.raises(InvalidOption, match=rf"'nosuch'.*base, .*{HEAD} and head"):
        schema.upgrade(database_url, revision="nosuch")


@pytest.mark.parametrize("name", ["", "Shop", "my-schema", "a.b", "x" * 64, "%s", '"'])
def test_a_schema_name_that_statements_cannot_hold(sqlite_url: str, name: str) -> None:
    for call in (schema.upgrade, schema.downgrade, schema.current_revision):
        with pytest.raises(InvalidOption, match="lower-case letters"):
            call(sqlite_url, schema=name)


class TestUnreachable:
    @pytest.mark.parametrize("call", [schema.upgrade, schema.downgrade, schema.current_revision])
    def test_no_server(self, call: object) -> None:
        assert callable(call)
        with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1.*refused"):
            call(NOBODY_LISTENS)

    def test_no_server_for_the_check(self) -> None:
        with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1.*refused"):
            check(NOBODY_LISTENS)

    def test_no_such_database(self, postgres_url: str) -> None:
        url = make_url(postgres_url).set(database="nosuch").render_as_string(hide_password=False)
        with pytest.raises(DatabaseUnavailable, match='database "nosuch" does not exist'):
            schema.upgrade(url)

    def test_the_password_is_not_told(self) -> None:
        with pytest.raises(DatabaseUnavailable) as refused:
            schema.upgrade("postgresql://app:secret@127.0.0.1:1/shop")
        assert "secret" not in str(refused.value)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidDatabaseURL, match=r"there is no folder .*missing.*create it"):
            schema.upgrade(f"sqlite:///{tmp_path / 'missing' / 'jobs.db'}")

    def test_not_a_database_file(self, tmp_path: Path) -> None:
        (tmp_path / "letter.txt").write_text("Dear Sir or Madam, " * 100)
        url = f"sqlite:///{tmp_path / 'letter.txt'}"
        with pytest.raises(InvalidDatabaseURL, match="not an SQLite database"):
            schema.upgrade(url)
        with pytest.raises(InvalidDatabaseURL, match="not an SQLite database"):
            check(url)

    def test_a_role_that_may_not_create_schemas(self, empty_postgres_url: str) -> None:
        role = f"clerk_{make_url(empty_postgres_url).database}"
        execute(empty_postgres_url, f"CREATE ROLE {role} LOGIN PASSWORD 'clerk'")
        try:
            url = make_url(empty_postgres_url).set(username=role, password="clerk")
            with pytest.raises(JobqError, match=r"permission denied.*role that may create"):
                schema.upgrade(url)
        finally:
            execute(empty_postgres_url, f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "no database URL.*--database-url.*JOBQ_DATABASE_URL"),
        ("shop", "'shop' is not a database URL: write postgresql://"),
        ("mysql://localhost/shop", "PostgreSQL and SQLite, not to 'mysql'"),
        ("sqlite://", "in-memory SQLite.*name a file"),
        ("sqlite:///:memory:", "in-memory SQLite.*name a file"),
    ],
)
def test_a_url_that_cannot_be_used(url: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBQ_DATABASE_URL", raising=False)
    with pytest.raises(InvalidDatabaseURL, match=told):
        schema.upgrade(url)


@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "postgresql+psycopg2", "postgres"])
def test_a_driver_in_the_url_is_replaced_by_jobqs_own(postgres_url: str, scheme: str) -> None:
    check(postgres_url.replace("postgresql", scheme, 1))


def test_sqlite_has_to_be_recent_enough() -> None:
    check_sqlite_version((3, 35, 0))
    with pytest.raises(UnsupportedDatabase, match=r"SQLite 3\.34\.1; jobq needs 3\.35\.0"):
        check_sqlite_version((3, 34, 1))

"""Throwaway databases, without pytest's fixtures."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from jobq import DatabaseUnavailable, InvalidDatabaseURL, InvalidOption, JobQueue, schema
from jobq.testing import throwaway_database
from jobq.testing.databases import open_databases
from tests.conftest import ADMIN_URL_VARIABLE

app = JobQueue()


@app.task
def note() -> None: ...


def test_a_file_is_there_for_a_block() -> None:
    with throwaway_database() as url, app.on(url):
        assert note.enqueue().id == 1
    folder = Path(str(make_url(url).database)).parent

    assert not folder.exists()


def test_a_database_on_a_server_is_there_for_a_block() -> None:
    admin_url = os.environ[ADMIN_URL_VARIABLE]

    with throwaway_database(admin_url, schema="queue") as url:
        assert schema.current_revision(url, schema="queue") is not None
        name = make_url(url).database

    with psycopg.connect(admin_url) as connection:
        left = connection.execute("SELECT datname FROM pg_database").fetchall()
    assert name not in {one for (one,) in left}


def test_databases_know_nothing_of_each_other(tmp_path: Path) -> None:
    databases = open_databases("sqlite", tmp_path)
    for url in (databases.make(), databases.make()):
        with app.on(url):
            assert note.enqueue().id == 1
        databases.drop(url)
    databases.close()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("choice", ["mysql", "sqlite:///test.db"])
def test_a_choice_that_cannot_be_made_is_refused(tmp_path: Path, choice: str) -> None:
    with pytest.raises(InvalidOption, match="use sqlite"):
        open_databases(choice, tmp_path)


def test_a_server_that_does_not_answer_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="refused"):
        open_databases("postgresql://127.0.0.1:1/nowhere", tmp_path)


def test_a_role_that_may_not_create_databases_is_told(postgres_url: str, tmp_path: Path) -> None:
    role = f"jobq_reader_{uuid.uuid4().hex}"  # roles are the server's, not the database's
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'reader'".encode())
    url = make_url(postgres_url).set(username=role, password="reader")
    try:
        with pytest.raises(InvalidDatabaseURL, match="may create databases"):
            open_databases(url.render_as_string(hide_password=False), tmp_path)
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"DROP ROLE {role}".encode())

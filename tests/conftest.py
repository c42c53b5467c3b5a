"""The databases of the tests: one server for the whole run, a fresh database for every test.

The server and its migrated template database belong to the process that the user started; the
workers of xdist find them by their environment.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from jobq import schema
from jobq.embedded import EmbeddedPostgres
from jobq.errors import JobqError
from jobq.testing.databases import EMPTY, Copying
from tests.servers import SETTINGS, NoServer, Server, start_server

ADMIN_URL_VARIABLE = "JOBQ_TEST_ADMIN_URL"
TEMPLATE = "jobq_template"

SERVER = pytest.StashKey[Server]()


class Databases:
    """Makes the next test's database and drops the last one's while a test runs: each takes as long
    as many a test."""

    def __init__(self, admin_url: str) -> None:
        self._copying = Copying(admin_url)
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="databases")
        self._next = self._make(TEMPLATE)

    def _make(self, template: str) -> Future[str]:
        def make() -> str:
            name = f"jobq_test_{uuid.uuid4().hex}"
            self._copying.create(name, template)
            return name

        return self._aside.submit(make)

    def take(self) -> str:
        """Return the name of a migrated database."""
        ready, self._next = self._next, self._make(TEMPLATE)
        return ready.result()

    def take_empty(self) -> str:
        return self._make(EMPTY).result()

    def drop(self, name: str) -> None:
        self._aside.submit(self._copying.drop, name)

    def close(self) -> None:
        self.drop(self._next.result())
        self._aside.shutdown()
        self._copying.close()


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    with closing(Databases(os.environ[ADMIN_URL_VARIABLE])) as made:
        yield made


def pytest_configure(config: pytest.Config) -> None:
    if _is_worker(config) or not _runs_tests(config):
        return
    try:
        server = start_server()
        config.stash[SERVER] = server
        with closing(Copying(server.url())) as copying:
            copying.make_template(TEMPLATE)
    except (NoServer, JobqError, psycopg.Error) as error:
        raise pytest.UsageError(f"the tests have no PostgreSQL: {error}") from error
    os.environ[ADMIN_URL_VARIABLE] = server.url()


def pytest_unconfigure(config: pytest.Config) -> None:
    server = config.stash.get(SERVER, None)
    if server is None:
        return
    os.environ.pop(ADMIN_URL_VARIABLE, None)
    try:
        with closing(Copying(server.url())) as copying:
            copying.drop(TEMPLATE)
    finally:
        server.stop()


def pytest_report_header(config: pytest.Config) -> str | None:
    server = config.stash.get(SERVER, None)
    return None if server is None else f"database: {server.describe}"


@pytest.fixture
def postgres_url(databases: Databases) -> Iterator[str]:
    """A migrated PostgreSQL database of the test's own."""
    name = databases.take()
    yield url_of(name)
    databases.drop(name)


@pytest.fixture
def empty_postgres_url(databases: Databases) -> Iterator[str]:
    """A PostgreSQL database of the test's own, without jobq's tables."""
    name = databases.take_empty()
    yield url_of(name)
    databases.drop(name)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy, never to open."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    schema.upgrade(f"sqlite:///{path}")
    leftovers = [str(file) for file in path.parent.iterdir() if file != path]
    assert not leftovers, f"the template is still open, a copy would be torn: {leftovers}"
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated SQLite database of the test's own."""
    return f"sqlite:///{shutil.copyfile(sqlite_template, tmp_path / 'jobq.db')}"


@pytest.fixture(params=["postgresql", "sqlite"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of the test's own, on each backend in turn."""
    fixture = {"postgresql": "postgres_url", "sqlite": "sqlite_url"}[request.param]
    url: str = request.getfixturevalue(fixture)
    return url


@pytest.fixture
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server of the test's own, to stop and restart without disturbing the others."""
    with EmbeddedPostgres(SETTINGS) as server:
        yield server


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _runs_tests(config: pytest.Config) -> bool:
    shows = ("help", "version", "collectonly", "markers", "showfixtures", "show_fixtures_per_test")
    return not any(config.getoption(option) for option in shows)


def url_of(name: str) -> str:
    admin_url = make_url(os.environ[ADMIN_URL_VARIABLE])
    return admin_url.set(database=name).render_as_string(hide_password=False)

"""The pytest plugin: a throwaway database for each test, and the user's own app on it.

pytest loads it wherever jobq is installed, so it imports nothing large until a fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from jobq.testing.cuts import Interruption

if TYPE_CHECKING:
    from jobq.client import JobQueue
    from jobq.testing.databases import Databases

OPTION = "jobq_database"
CHOICES = "sqlite, embedded, testcontainers, testcontainers:IMAGE, or a PostgreSQL server's URL"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(OPTION, f"where jobq's tests have their databases: {CHOICES}", default="sqlite")
    parser.getgroup("jobq").addoption(
        "--jobq-database",
        metavar="DATABASE",
        help=f"where jobq's tests have their databases: {CHOICES} (instead of {OPTION} in the ini "
        "file; default: sqlite)",
    )


@pytest.fixture(scope="session")
def jobq_databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Databases]:
    """What makes the tests' databases: one for the session, in each process of it."""
    from jobq.testing.databases import open_databases

    config = request.config
    choice = config.getoption("--jobq-database") or config.getini(OPTION)
    with closing(open_databases(choice, tmp_path_factory.mktemp("jobq"))) as databases:
        yield databases


@pytest.fixture
def jobq_database_url(jobq_databases: Databases) -> Iterator[str]:
    """The URL of a migrated database of the test's own."""
    url = jobq_databases.make()
    yield url
    jobq_databases.drop(url)


@pytest.fixture
def jobq_on(jobq_database_url: str) -> Iterator[Callable[[JobQueue], JobQueue]]:
    """`jobq_on(app)` has an app work on the test's database until the test ends; returns it."""
    from jobq import schema
    from jobq.models import DEFAULT_SCHEMA

    with ExitStack() as stack:

        def on(app: JobQueue) -> JobQueue:
            if app.schema != DEFAULT_SCHEMA:
                schema.upgrade(jobq_database_url, schema=app.schema)
            return stack.enter_context(app.on(jobq_database_url))

        yield on


@pytest.fixture(params=list(Interruption), ids=str)
def jobq_interruption(request: pytest.FixtureRequest) -> Interruption:
    """Each cut at which `jobq.testing.interrupt` can interrupt a job, in a test of its own."""
    at: Interruption = request.param
    return at

"""Apps on databases of the test's own, and what is in them as anybody else sees it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from sqlalchemy.engine import make_url

from jobq import JobQueue


@pytest.fixture
def app(database_url: str) -> Iterator[JobQueue]:
    """A queue on each backend in turn."""
    app = JobQueue(database_url)
    yield app
    app.close()


@pytest.fixture
async def async_app(database_url: str) -> AsyncIterator[JobQueue]:
    """The same for a test that uses it on its event loop."""
    app = JobQueue(database_url)
    yield app
    await app.aclose()


@pytest.fixture
def nowhere() -> JobQueue:
    """A queue whose database does not answer: what is refused before it is asked, is refused."""
    return JobQueue("postgresql://127.0.0.1:1/nowhere")


def committed_jobs(url: str) -> list[int]:
    """The ids of the jobs that another connection sees, without waiting for anyone."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(str(make_url(url).database), isolation_level=None)
        try:
            rows = connection.execute("SELECT id FROM jobq_jobs ORDER BY id").fetchall()
        finally:
            connection.close()
    else:
        with psycopg.connect(url) as postgres:
            rows = postgres.execute("SELECT id FROM jobq.jobs ORDER BY id").fetchall()
    return [job_id for (job_id,) in rows]

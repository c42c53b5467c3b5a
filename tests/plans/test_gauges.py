"""What a scrape of the queue's metrics reads does not grow with the queue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from jobq.database.postgres import PostgresDatabase
from jobq.database.url import parse_url
from jobq.models import DEFAULT_SCHEMA
from jobq.store.gauges import Gauges, gauges
from jobq.store.step import Statement
from tests.plans import tables
from tests.plans.plan import HOT, Prepared, Scan, scans

MOST = 50
ALLOWED = 2 * MOST
"""Of each table in one scan; the loose looks for queues and priorities take a row for each."""


@pytest.fixture
def loaded(postgres_url: str) -> Iterator[PostgresDatabase]:
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        tables.leave_alone(admin)
        tables.load(admin)
        admin.execute("ANALYZE")
    database = PostgresDatabase(parse_url(postgres_url), schema=DEFAULT_SCHEMA)
    yield database
    database.close()


def _scans(connection: Any, statement: Statement) -> list[Scan]:
    if "alembic_version" in statement.sql:
        return []  # a table of one row
    return list(scans(Prepared(connection, statement.sql, statement.params).plan()))


def test_no_statement_reads_a_table_whole(loaded: PostgresDatabase) -> None:
    looked_at = set()
    step = gauges(loaded.store, MOST)
    with closing(loaded.connect()) as connection:
        statement = next(step)
        while True:
            for scan in _scans(connection, statement):
                looked_at.add(scan.table)
                assert scan.table not in HOT or scan.visited <= ALLOWED, (scan, statement.sql)
            rows: Any = connection.execute(statement.sql, statement.params).fetchall()
            try:
                statement = step.send(rows)
            except StopIteration as end:
                found: Gauges = end.value
                break
    assert looked_at >= {"ready", "scheduled", "leases", "jobs", "commit_records", "workers"}
    assert max(found.jobs.values()) == found.expired_leases == MOST
    assert found.overdue_s > 0

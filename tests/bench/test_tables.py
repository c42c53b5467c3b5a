"""What the benchmarks load by SQL is what enqueueing and draining would have left."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from bench import tables
from bench.line import TASK, Line
from jobq import State
from jobq.invariants import INVARIANTS, query_for


@pytest.mark.parametrize(
    ("load", "state"),
    [
        (tables.ready, State.READY),
        (tables.scheduled, State.SCHEDULED),
        (tables.done, State.DONE),
    ],
)
def test_each_job_is_in_its_one_place(
    load: Callable[[str, str, int], None], state: State, postgres_url: str
) -> None:
    load(postgres_url, TASK, 25)

    line = Line(postgres_url)
    counts = line.app.database.run(line.app.database.store.counts())
    line.close()
    assert {where: jobs for where, jobs in counts.items() if jobs} == {state: 25}
    with psycopg.connect(postgres_url) as connection:
        for invariant in INVARIANTS:
            query = query_for(invariant.query, "postgresql", "jobq")
            assert connection.execute(query.encode()).fetchall() == [], invariant.claim


def test_ready_jobs_are_spread_over_queues(postgres_url: str) -> None:
    tables.ready(postgres_url, TASK, 25, queue="line", queues=5)

    with psycopg.connect(postgres_url) as connection:
        rows = connection.execute("SELECT queue, count(*) FROM jobq.ready GROUP BY 1 ORDER BY 1")
        assert rows.fetchall() == [(f"line{number}", 5) for number in range(5)]


def test_a_worker_drains_what_was_loaded(postgres_url: str) -> None:
    tables.ready(postgres_url, TASK, 30)

    line = Line(postgres_url)
    rate = line.drain_some(20)
    line.close()

    assert rate > 0

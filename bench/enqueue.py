"""Enqueueing from one thread, beside bare INSERTs and COPYs of the same rows into one table.

Measured: `task.enqueue()` one by one, each in a transaction of its own, and `enqueue_many` of 1,000
at once and of 20,000, which come in by COPY. Beside: one INSERT of one row in autocommit, one
INSERT of 1,000 from `unnest`, and a COPY of 20,000.

Fair because both start from Python values, make the JSON and write the same columns durably; an
INSERT returns the ids, a COPY has none to return. The peer is the least a queue can do: one table
with only its primary key, on a connection it keeps. The ratio shows the second table (`ready`), the
checked arguments and the pool.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from uuid import uuid4

import psycopg

from bench.harness import Figure, Measure, Place, alternate, compare
from jobq import JobQueue

CALLS = {1: 3_000, 1_000: 40, 20_000: 4}
"""How often to enqueue so many jobs at once."""
BY_COPY = 20_000

CREATE = """
CREATE TABLE queue (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, queue text NOT NULL, task text NOT NULL,
    args json NOT NULL, priority smallint NOT NULL, max_attempts smallint NOT NULL,
    idempotency_key uuid NOT NULL, created_at timestamptz NOT NULL, due_at timestamptz NOT NULL,
    attempts smallint NOT NULL)
"""
INSERT = """
INSERT INTO queue (queue, task, args, priority, max_attempts, idempotency_key, created_at, due_at,
                   attempts)
SELECT 'default', 'bench.charge', args::json, 0, 5, gen_random_uuid(), clock_timestamp(),
       clock_timestamp(), 0
FROM unnest(%s::text[]) AS args RETURNING id
"""
COPY = """
COPY queue (queue, task, args, priority, max_attempts, idempotency_key, created_at, due_at,
            attempts)
FROM STDIN
"""


def run(place: Place, repeat: int) -> list[Figure]:
    measures: dict[str, Measure] = {}
    for jobs in CALLS:
        if jobs == BY_COPY:
            measures["enqueue, by COPY"] = partial(_enqueue, jobs)
            measures[f"bare COPY, {jobs:,} at once"] = _copy
        else:
            measures[f"enqueue, {jobs:,} at once"] = partial(_enqueue, jobs)
            measures[f"bare INSERT, {jobs:,} at once"] = partial(_insert, jobs)
    names = list(measures)
    samples = alternate(place, measures, repeat)
    return [compare(samples, *pair) for pair in zip(names[::2], names[1::2], strict=True)]


def _enqueue(jobs: int, url: str) -> float:
    app = JobQueue(url)

    @app.task(name="bench.charge")
    def charge(order_id: int, cents: int) -> None:
        """Never called: no worker runs."""

    def enqueue() -> None:
        if jobs == 1:
            charge.enqueue(order_id=7, cents=999)
        else:
            app.enqueue_many([charge.request(order_id=n, cents=999) for n in range(jobs)])

    rate = _rate(jobs, enqueue)
    app.close()
    return rate


def _insert(jobs: int, url: str) -> float:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(CREATE)

        def insert() -> None:
            args = [json.dumps({"order_id": n, "cents": 999}) for n in range(jobs)]
            connection.execute(INSERT, (args,)).fetchall()

        return _rate(jobs, insert)


def _copy(url: str) -> float:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(CREATE)

        def copy() -> None:
            with connection.cursor().copy(COPY) as rows:
                for n in range(BY_COPY):
                    args = json.dumps({"order_id": n, "cents": 999})
                    now = datetime.now(UTC)
                    rows.write_row(("default", "bench.charge", args, 0, 5, uuid4(), now, now, 0))

        return _rate(BY_COPY, copy)


def _rate(jobs: int, call: Callable[[], object]) -> float:
    for _ in range(min(10, CALLS[jobs])):  # connections are opened, statements prepared
        call()
    began_s = perf_counter()
    for _ in range(CALLS[jobs]):
        call()
    return jobs * CALLS[jobs] / (perf_counter() - began_s)

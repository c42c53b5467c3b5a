"""Fills jobq's tables with a million jobs in seconds, as enqueueing and draining would leave them.

By SQL on the server: what is measured comes afterwards. `tests/bench/test_tables.py` holds the rows
to the protocol's invariants.
"""

from __future__ import annotations

import psycopg

JOB = """
WITH job AS (
    INSERT INTO jobq.jobs (queue, task, args, priority, max_attempts, idempotency_key, created_at)
    SELECT %(queue)s || CASE WHEN %(queues)s > 1 THEN (number %% %(queues)s)::text ELSE '' END,
           %(task)s, '{}', %(priority)s, 5, gen_random_uuid(), clock_timestamp()
    FROM generate_series(0, %(jobs)s - 1) AS number
    RETURNING id, queue, task, priority, created_at
)
"""
READY = f"""{JOB}
INSERT INTO jobq.ready (queue, priority, due_at, job_id, task, attempts, token)
SELECT queue, priority, created_at, id, task, 0, 0 FROM job
"""
SCHEDULED = f"""{JOB}
INSERT INTO jobq.scheduled (job_id, run_at, attempts, token)
SELECT id, created_at + interval '1 day', 0, 0 FROM job
"""
DONE = f"""{JOB}
INSERT INTO jobq.commit_records (job_id, outcome, token, recorded_at)
SELECT id, 'committed', 1, created_at FROM job
"""


def ready(url: str, task: str, jobs: int, *, queue: str = "default", queues: int = 1) -> None:
    """Jobs that are due. With `queues` they are spread over so many, named `queue` and a number."""
    _load(READY, url, task, jobs, queue=queue, queues=queues)


def scheduled(url: str, task: str, jobs: int) -> None:
    """Jobs that are due tomorrow, and then before all others."""
    _load(SCHEDULED, url, task, jobs, priority=-1)


def done(url: str, task: str, jobs: int) -> None:
    """Jobs that ran, and are kept with their records."""
    _load(DONE, url, task, jobs)


def _load(
    statement: str,
    url: str,
    task: str,
    jobs: int,
    *,
    queue: str = "default",
    queues: int = 1,
    priority: int = 0,
) -> None:
    values = {"task": task, "jobs": jobs, "queue": queue, "queues": queues, "priority": priority}
    with psycopg.connect(url) as connection:
        connection.execute(statement, values)

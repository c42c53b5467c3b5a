"""How soon each page of the dashboard is there, with a million jobs in the database.

Measured: requests by HTTP to a served dashboard, one after the other: 900,000 jobs that ended in
the last three hours, 60,000 that are due, 30,000 scheduled, 10,000 dead with their histories. The
page with the live numbers is asked three times over: as it comes (they are kept for two seconds,
whoever looks), each time afresh, and as the first page of a dashboard that has just begun.

Beside nothing: a page is to keep to a number. The 95th percentile, in milliseconds.
"""

from __future__ import annotations

import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from statistics import quantiles

import psycopg
import uvicorn
from starlette.applications import Starlette

from bench import tables
from bench.harness import Figure, Place, settle
from bench.line import TASK
from jobq import JobQueue
from jobq.dashboard import app as dashboard
from jobq.dashboard import create_dashboard

SAMPLES = 20
"""Requests for each page, per repetition."""
DONE, READY, SCHEDULED, DEAD = 900_000, 60_000, 30_000, 10_000
PAGES = {
    "overview": "/",
    "queues": "/queues",
    "jobs": "/jobs",
    "jobs, done": "/jobs?state=done",
    "jobs, ready": "/jobs?state=ready",
    "jobs, scheduled": "/jobs?state=scheduled",
    "jobs, of no queue": "/jobs?queue=none",
    "jobs, by argument": "/jobs?text=nothing",
    "job": "/jobs/{job_id}",
    "dead": "/dead",
    "dead, of no error": "/dead?error_type=NoError",
    "schedules": "/schedules",
    "workers": "/workers",
    "integrity": "/integrity",
    "audit": "/audit",
}
AFRESH = "overview, asked afresh"
FIRST = "overview, the first page of all"

# In the order of their ids, as they were.
SPREAD = """
UPDATE jobq.commit_records SET worker = 'bench:1:0',
    recorded_at = clock_timestamp() - interval '3 hours' * (1 - job_id / %(jobs)s::float8),
    acquired_at = clock_timestamp() - interval '3 hours' * (1 - job_id / %(jobs)s::float8)
                  - interval '20 ms',
    due_at = clock_timestamp() - interval '3 hours' * (1 - job_id / %(jobs)s::float8)
             - interval '30 ms';
"""
CREATED = """
UPDATE jobq.jobs
SET created_at = clock_timestamp() - interval '3 hours' * (1 - id / %(jobs)s::float8)
WHERE id <= %(jobs)s
"""
BURY = """
WITH dead AS (
    UPDATE jobq.commit_records SET outcome = 'dead' WHERE job_id % %(every)s = 0
    RETURNING job_id, token, recorded_at
)
INSERT INTO jobq.attempts (job_id, token, attempt, worker, started_at, ended_at, outcome,
                           error_type, error_message, traceback)
SELECT job_id, token, 1, 'bench:1:0', recorded_at, recorded_at, 'failed', 'ValueError', 'no', ''
FROM dead
"""


def run(place: Place, repeat: int, *, scale: float = 1.0) -> list[Figure]:
    done = max(1_000, round((DONE + DEAD) * scale))
    with place.database() as url:
        tables.done(url, TASK, done)
        with psycopg.connect(url) as connection:
            connection.execute(SPREAD, {"jobs": done})
            connection.execute(CREATED, {"jobs": done})
            connection.execute(BURY.replace("% %(", "%% %("), {"every": (DONE + DEAD) // DEAD})
        tables.scheduled(url, TASK, max(1, round(SCHEDULED * scale)))
        tables.ready(url, TASK, max(1, round(READY * scale)))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM FULL jobq.jobs, jobq.commit_records")
        settle(url)
        with closing(JobQueue(url)) as queue, served(create_dashboard(queue)) as address:
            samples = {
                name: _ask(f"{address}{path.format(job_id=done // 2)}", repeat * SAMPLES)
                for name, path in PAGES.items()
            }
            kept_s, dashboard.LIVE_S = dashboard.LIVE_S, 0.0
            samples[AFRESH] = _ask(address, repeat * SAMPLES)
            dashboard.LIVE_S = kept_s
            samples[FIRST] = [_first(queue) for _ in range(repeat * SAMPLES)]
    return [Figure(f"page {name}, p95", p95(took), "ms") for name, took in samples.items()]


def _first(queue: JobQueue) -> float:
    with served(create_dashboard(queue)) as address:
        return _once(address)


def p95(samples: list[float]) -> float:
    return quantiles(samples, n=20, method="inclusive")[-1]


def _ask(url: str, times: int) -> list[float]:
    print(url, file=sys.stderr)
    return [_once(url) for _ in range(times + 1)][1:]


def _once(url: str) -> float:
    began_s = time.perf_counter()
    with urllib.request.urlopen(url) as answer:
        assert b"</html>" in answer.read()
    return 1e3 * (time.perf_counter() - began_s)


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not (server.started and server.servers):
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()

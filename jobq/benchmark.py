"""What jobq does on one database: how many jobs, how many effects, how soon.

Made for a first look at a database of one's own. The comparisons, with peers and budgets, are in
the repository's `bench/`.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from statistics import quantiles
from typing import Any

import psycopg
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from jobq.client import JobQueue
from jobq.protocol.states import State
from jobq.task import Task
from jobq.throwaway import queue_in

SCHEMA = "jobq_bench"
OURS = "made by jobq bench, and dropped by it"
TIMEOUT_S = 300.0
PAUSE_S = (0.02, 0.1)
"""Between two jobs for an idle worker, at random."""

Progress = Callable[[int], None]
"""Is told how many more jobs are through."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many jobs each part takes."""

    drain: int = 20_000
    effects: int = 5_000
    latency: int = 100

    @property
    def total(self) -> int:
        return self.drain + self.effects + self.latency


@dataclass(frozen=True, slots=True)
class Measured:
    """Rates in jobs per second, from the first job's start until the last is DONE; latencies in
    milliseconds, from before `enqueue()` until the handler of an idle worker runs."""

    enqueue_per_s: float
    drain_per_s: float
    effects_per_s: float
    effects_lost: int
    effects_duplicated: int
    latency_p50_ms: float
    latency_p99_ms: float


def measure(url: URL, progress: Progress, sizes: Sizes, concurrency: int) -> Measured:
    """Measure in a schema of its own, which is dropped afterwards; on SQLite in the URL's file,
    which must not exist.

    Raises InvalidDatabaseURL, and whatever a worker raises that cannot start.
    """
    with queue_in(url, SCHEMA, OURS) as own, _queue(own) as app:
        enqueue_per_s, drain_per_s = _drain(app, progress, sizes.drain, concurrency)
        effects_per_s, lost, duplicated = _effects(app, own, progress, sizes.effects, concurrency)
        p50_ms, p99_ms = _latency(app, progress, sizes.latency)
        return Measured(enqueue_per_s, drain_per_s, effects_per_s, lost, duplicated, p50_ms, p99_ms)


@contextmanager
def _queue(url: URL) -> Iterator[JobQueue]:
    app = JobQueue(url, schema=SCHEMA)
    try:
        yield app
    finally:
        app.close()


class _Tally:
    """Counts the jobs that ran, and knows when the first did."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._count = count(1)  # its next() is atomic
        self._began_s = 0.0
        self._all_ran = threading.Event()

    def tick(self) -> None:
        done = next(self._count)
        if done == 1:
            self._began_s = time.perf_counter()
        self._progress(1)
        if done == self._total:
            self._all_ran.set()

    def wait(self, app: JobQueue, ended: int) -> float:
        """Wait until all have run and `ended` jobs are DONE; return the rate."""
        if not self._all_ran.wait(TIMEOUT_S):
            raise TimeoutError(f"not every job was run within {TIMEOUT_S:g} s")
        database = app.database
        while database.run(database.store.counts())[State.DONE] < ended:
            time.sleep(0.005)
        return self._total / (time.perf_counter() - self._began_s)


def _drain(app: JobQueue, progress: Progress, jobs: int, concurrency: int) -> tuple[float, float]:
    tally = _Tally(jobs, progress)

    @app.task(name="nothing", queue="drain")
    def nothing() -> None:
        tally.tick()

    app.database.check()
    began_s = time.perf_counter()
    app.enqueue_many([nothing.request()] * jobs)
    enqueue_per_s = jobs / (time.perf_counter() - began_s)
    with app.worker(queues=["drain"], concurrency=concurrency):
        return enqueue_per_s, tally.wait(app, jobs)


def _effects(
    app: JobQueue, url: URL, progress: Progress, jobs: int, concurrency: int
) -> tuple[float, int, int]:
    tally = _Tally(jobs, progress)

    def charge(db: psycopg.Connection[Any], order: int) -> None:
        db.execute("INSERT INTO ledger VALUES (%s)", (order,))
        tally.tick()

    def charge_in_file(db: sqlite3.Connection, order: int) -> None:
        db.execute("INSERT INTO ledger VALUES (?)", (order,))
        tally.tick()

    is_sqlite = url.get_backend_name() == "sqlite"
    handler = charge_in_file if is_sqlite else charge
    task: Task[..., Any] = app.task(name="charge", queue="effects")(handler)
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE ledger (order_id bigint NOT NULL)"))
    before = app.database.run(app.database.store.counts())[State.DONE]
    app.enqueue_many([task.request(order=number) for number in range(jobs)])
    with app.worker(queues=["effects"], concurrency=concurrency):
        rate = tally.wait(app, before + jobs)
    with engine.begin() as connection:
        charged, distinct = connection.execute(
            text("SELECT count(*), count(DISTINCT order_id) FROM ledger")
        ).one()
    return rate, jobs - distinct, charged - distinct


def _latency(app: JobQueue, progress: Progress, jobs: int) -> tuple[float, float]:
    ran = threading.Semaphore(0)
    ran_s: list[float] = []

    @app.task(name="run", queue="latency")
    def run() -> None:
        ran_s.append(time.perf_counter())
        ran.release()

    taken_ms: list[float] = []
    with app.worker(queues=["latency"]):
        for _ in range(jobs):
            time.sleep(random.uniform(*PAUSE_S))  # noqa: S311
            began_s = time.perf_counter()
            run.enqueue()
            if not ran.acquire(timeout=TIMEOUT_S):
                raise TimeoutError(f"a job was not picked up within {TIMEOUT_S:g} s")
            taken_ms.append((ran_s[-1] - began_s) * 1e3)
            progress(1)
    percent = quantiles(taken_ms, n=100, method="inclusive")
    return percent[49], percent[98]

"""The four workloads, the same for every queue. Each begins in a new database."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg

from bench.effect import open_shop
from bench.peers.child import Failed, child

AT_ONCE = 1_000
"""Jobs in one enqueueing call."""
LATENCIES = 50
PAUSE_S = (0.1, 0.4)
"""Between two jobs of the latency workload, at random: the worker is idle by then."""
RUN_TIMEOUT_S = 180.0
LOOK_EVERY_S = 0.002
REPEATS_WITHIN_S = 0.3
"""How long after the last job a second run of one is waited for."""
LEDGER = "SELECT count(*), count(DISTINCT order_id) FROM ledger"


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue, and what its adapter said of itself."""

    name: str
    python: str
    jobs: Mapping[str, int]
    is_open: str
    facts: Mapping[str, Any]
    """Its versions and settings."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run came to. A rate at which jobs are lost or done twice is no rate."""

    jobs: int
    rate: float | None
    """Jobs per second."""
    lost: int = 0
    duplicated: int = 0
    latencies_s: list[float] = field(default_factory=list)


def introduce(name: str, python: str, url: str) -> Queue:
    """Return what the adapter says of itself; its tables are made in this database."""
    with child(python, name, "install", url=url) as process:
        said = process.hear()
    jobs, is_open = said.pop("jobs"), said.pop("is_open")
    return Queue(name, python, jobs, is_open, said)


def drain(queue: Queue, url: str, scale: float) -> Sample:
    """No-op jobs, enqueued before; correct when each handler ran once."""
    return _drain(queue, url, "drain", "nothing", _at(scale, queue.jobs["drain"]))


def effects(queue: Queue, url: str, scale: float) -> Sample:
    """Jobs that update an account and write a ledger; correct when the ledger has each once."""
    jobs = _at(scale, queue.jobs["effects"])
    open_shop(url, jobs)
    sample = _drain(queue, url, "effects", "charge", jobs)
    with psycopg.connect(url) as connection:
        [(charges, orders)] = connection.execute(LEDGER).fetchall()
    return _judged(jobs, sample.rate, jobs - orders, charges - orders)


def enqueue(queue: Queue, url: str, scale: float) -> Sample:
    """Many jobs from one process and connection, a thousand in each call."""
    jobs = _at(scale, queue.jobs["enqueue"])
    introduce(queue.name, queue.python, url)
    return Sample(jobs, jobs / _enqueue(queue, url, "nothing", jobs, is_warmed_up=True))


def latency(queue: Queue, url: str, scale: float) -> Sample:
    """From before the call that enqueues one job to its handler, in a worker with nothing else to
    do. Producer and worker are two processes."""
    introduce(queue.name, queue.python, url)
    start = partial(child, queue.python, queue.name)
    jobs = _at(scale, LATENCIES)
    waited_s = []
    with (
        start("work", url=url, workload="latency", jobs=jobs) as worker,
        start("ask", url=url) as producer,
    ):
        for number in range(1 + jobs):
            time.sleep(random.uniform(*PAUSE_S))
            producer.tell(str(number))
            asked, started = producer.hear(), worker.hear()
            if started["number"] != number:
                raise Failed(f"ran job {started['number']} when {number} was due")
            waited_s.append(started["started_s"] - asked["asked_s"])
    return Sample(jobs, None, latencies_s=waited_s[1:])  # the first one opened the connections


WORKLOADS: Mapping[str, Callable[[Queue, str, float], Sample]] = {
    "drain": drain,
    "effects": effects,
    "enqueue": enqueue,
    "latency": latency,
}


def _at(scale: float, jobs: int) -> int:
    return max(10, round(jobs * scale))


def _judged(jobs: int, rate: float | None, lost: int, duplicated: int) -> Sample:
    return Sample(jobs, None if lost or duplicated else rate, lost, duplicated)


def _enqueue(queue: Queue, url: str, task: str, jobs: int, *, is_warmed_up: bool = False) -> float:
    """Return how many seconds it took."""
    about: dict[str, Any] = {
        "task": task,
        "jobs": jobs,
        "at_once": AT_ONCE,
        "is_warmed_up": is_warmed_up,
    }
    with child(queue.python, queue.name, "enqueue", url=url, **about) as process:
        return float(process.hear()["took_s"])


def _drain(queue: Queue, url: str, workload: str, task: str, jobs: int) -> Sample:
    introduce(queue.name, queue.python, url)
    _enqueue(queue, url, task, jobs)
    about: dict[str, Any] = {"workload": workload, "jobs": jobs, "timeout_s": RUN_TIMEOUT_S}
    with psycopg.connect(url, autocommit=True) as connection:
        # What autovacuum would do at some moment of the measurement.
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
        with child(queue.python, queue.name, "work", url=url, **about) as worker:
            ran = worker.hear(RUN_TIMEOUT_S + 10)
            ended_s = _closed_s(connection, queue) if ran["all_ran"] else None
            time.sleep(REPEATS_WITHIN_S)
            runs = worker.finish()
    rate = (jobs - jobs // 10) / (ended_s - ran["began_s"]) if ended_s else None
    return _judged(jobs, rate, runs["lost"], runs["duplicated"])


def _closed_s(connection: psycopg.Connection[Any], queue: Queue) -> float:
    """Return when the queue's tables were asked and said that all is done. Raises Failed."""
    deadline_s = time.monotonic() + RUN_TIMEOUT_S
    while (asked_s := time.monotonic()) < deadline_s:
        [(is_open,)] = connection.execute(queue.is_open.encode()).fetchall()
        if not is_open:
            return asked_s
        time.sleep(LOOK_EVERY_S)
    raise Failed(f"its tables did not say within {RUN_TIMEOUT_S:g} s that every job was done")

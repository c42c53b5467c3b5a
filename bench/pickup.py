"""Pick-up latency of an idle worker, beside the bare LISTEN and NOTIFY round trip.

Measured: from before `task.enqueue()` (its commit is inside) until the handler of a worker that was
idle runs, with nothing else to do; p50 and p99 of all samples. Beside: from before one INSERT that
notifies until a thread that listens is told; and until that thread has taken the row with one
DELETE, as any queue must before it may run a job.

Fair because all three commit a row durably and wake a thread of the same process by the same
server's notification. They stand side by side, and a job goes to each in turn, in a random order,
at random moments. The ratio shows jobq's second table, its look for idle workers, its claim and its
way to a handler.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from queue import SimpleQueue
from select import select
from statistics import quantiles

import psycopg

from bench.harness import Figure, Place
from jobq import JobQueue

SAMPLES = 60
"""Of each, per repetition."""
PAUSE_S = (0.02, 0.2)
"""Between two samples, at random."""
TIMEOUT_S = 30.0
JOBQ, TOLD, TAKEN = "pick-up, notified", "bare NOTIFY, told", "bare NOTIFY, row taken"
CREATE = (
    "CREATE TABLE line (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, args json NOT NULL)"
)
INSERT = """
WITH job AS (INSERT INTO line (args) VALUES ('{}') RETURNING id)
SELECT pg_notify('line', '') FROM job
"""
TAKE = """
DELETE FROM line WHERE id = (SELECT id FROM line ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING args
"""

Sample = Callable[[], float]
"""Enqueues one job; returns how long it was, in ms, until somebody had it."""


def run(place: Place, repeat: int) -> list[Figure]:
    places: dict[str, Callable[[str], AbstractContextManager[Sample]]] = {
        JOBQ: _worker,
        TOLD: partial(_listener, takes=False),
        TAKEN: partial(_listener, takes=True),
    }
    with ExitStack() as opened:
        samples: dict[str, Sample] = {}
        for name, begin in places.items():
            url = opened.enter_context(place.database())
            samples[name] = opened.enter_context(begin(url))
        taken_ms = {name: list[float]() for name in samples}
        for sample in samples.values():
            sample()  # opens the connections
        for repetition in range(repeat):
            print(f"repetition {repetition + 1} of {repeat}", file=sys.stderr)
            for _ in range(SAMPLES):
                for name in random.sample(list(samples), len(samples)):
                    time.sleep(random.uniform(*PAUSE_S))
                    taken_ms[name].append(samples[name]())
    return [_figure(taken_ms, peer, percent) for peer in (TOLD, TAKEN) for percent in (50, 99)]


def _figure(taken_ms: dict[str, list[float]], peer: str, percent: int) -> Figure:
    ours, its = (
        quantiles(taken_ms[name], n=100, method="inclusive")[percent - 1] for name in (JOBQ, peer)
    )
    return Figure(f"{JOBQ}, p{percent}", ours, "ms", f"{peer}, p{percent}", its, ours / its)


@contextmanager
def _worker(url: str) -> Iterator[Sample]:
    app = JobQueue(url)
    had_s: SimpleQueue[float] = SimpleQueue()

    @app.task(name="bench.note")
    def note() -> None:
        had_s.put(time.perf_counter())

    with app.worker():
        yield partial(_sample, note.enqueue, had_s)
    app.close()


@contextmanager
def _listener(url: str, *, takes: bool) -> Iterator[Sample]:
    had_s: SimpleQueue[float] = SimpleQueue()
    ended = threading.Event()
    with (
        psycopg.connect(url, autocommit=True) as connection,
        psycopg.connect(url, autocommit=True) as listening,
    ):
        connection.execute(CREATE)
        listening.execute("LISTEN line")

        def listen() -> None:
            wire = listening.pgconn
            while not ended.is_set():
                select([wire.socket], [], [], 0.2)
                wire.consume_input()
                while wire.notifies():
                    if takes:
                        listening.execute(TAKE, prepare=True).fetchall()
                    had_s.put(time.perf_counter())

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield partial(_sample, partial(connection.execute, INSERT, prepare=True), had_s)
        finally:
            ended.set()
            thread.join()


def _sample(enqueue: Callable[[], object], had_s: SimpleQueue[float]) -> float:
    asked_s = time.perf_counter()
    enqueue()
    return 1e3 * (had_s.get(timeout=TIMEOUT_S) - asked_s)

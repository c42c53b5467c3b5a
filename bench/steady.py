"""Latency from enqueue to the handler while jobs come at a fixed rate, beside the enqueue alone.

Measured: four client processes enqueue one by one, 500 and 2,000 jobs a second in all, while a real
`Worker`, as it comes, runs them in a process of its own; from before `task.enqueue()` until the
handler runs, p50, p95 and p99. The same at half load: half of what the clients and the worker
manage together when the clients do not pause. Beside: how long the same calls of `task.enqueue()`
took.

Fair because both are taken from the same jobs by the same clock, the machine's monotonic one: the
ratio shows what the way from the committed row to the handler adds. A client that falls behind its
schedule does not pause until it has caught up, and what it did not manage is told as a rate below
the one asked for.
"""

from __future__ import annotations

import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from statistics import median, quantiles

from bench.harness import Figure, Place, compare
from jobq import JobQueue

CLIENTS, RATES = 4, (500, 2_000)
SECONDS, WARM_UPS = 10.0, 20
PERCENTS = (50, 95, 99)
TASK = "bench.note"
TIMEOUT_S = 60.0
HALF = "half load"

_gate: Barrier
"""In a client's process: where it waits until all of them are ready."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What came of one run at one rate. Latencies are in ms."""

    rate: float
    latencies_ms: list[float]
    enqueues_ms: list[float]


def run(place: Place, repeat: int, *, scale: float = 1.0) -> list[Figure]:
    seconds = SECONDS * scale
    flows: dict[str, list[Flow]] = {}
    full: list[float] = []
    processes = get_context("forkserver")
    gate = processes.Barrier(CLIENTS)
    with ProcessPoolExecutor(CLIENTS, processes, _set_gate, (gate,)) as clients:
        for repetition in range(repeat):
            print(f"repetition {repetition + 1} of {repeat}", file=sys.stderr)
            for rate in RATES:
                flow = _flow(place, clients, rate, seconds)
                flows.setdefault(f"{rate:,} jobs/s", []).append(flow)
            full.append(_flow(place, clients, math.inf, seconds).rate)
            flows.setdefault(HALF, []).append(_flow(place, clients, full[-1] / 2, seconds))
    rates = [Figure("full load, enqueued and begun", median(full), "jobs/s")]
    for rate in RATES:
        reached = [flow.rate / rate for flow in flows[f"{rate:,} jobs/s"]]
        name, reached_rate = f"{rate:,} jobs/s, reached", rate * median(reached)
        rates.append(
            Figure(name, reached_rate, "jobs/s", "asked for", rate, median(reached), reached)
        )
    return rates + [
        _latency(name, percent, each) for name, each in flows.items() for percent in PERCENTS
    ]


def _latency(name: str, percent: int, flows: list[Flow]) -> Figure:
    ours, its = f"enqueue to handler, {name}, p{percent}", f"its enqueue, p{percent}"
    samples = {
        ours: [_percentile(flow.latencies_ms, percent) for flow in flows],
        its: [_percentile(flow.enqueues_ms, percent) for flow in flows],
    }
    return compare(samples, ours, its, "ms")


def _percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def _flow(place: Place, clients: ProcessPoolExecutor, rate: float, seconds: float) -> Flow:
    latencies_ms: list[float] = []
    with place.database() as url:
        app = JobQueue(url)

        @app.task(name=TASK)
        async def note(asked_s: float) -> None:
            if asked_s:
                latencies_ms.append(1e3 * (time.monotonic() - asked_s))

        with app.worker():
            enqueue = partial(_enqueue, url, rate / CLIENTS, seconds)
            began_s, enqueues_ms = zip(*clients.map(enqueue, range(CLIENTS)), strict=True)
            expected = sum(map(len, enqueues_ms))
            deadline_s = time.monotonic() + TIMEOUT_S
            while len(latencies_ms) < expected:
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"not every job was begun within {TIMEOUT_S:g} s")
                time.sleep(0.01)
            ended_s = time.monotonic()
        app.close()
    rate_reached = expected / max(seconds, ended_s - min(began_s))
    return Flow(rate_reached, latencies_ms, list(chain.from_iterable(enqueues_ms)))


def _set_gate(gate: Barrier) -> None:
    global _gate
    _gate = gate


def _enqueue(url: str, rate: float, seconds: float, client: int) -> tuple[float, list[float]]:
    """In a process of its own: enqueue so many a second; return when it began, and how long each
    call took, in ms."""
    app = JobQueue(url, max_connections=1)

    @app.task(name=TASK)
    def note(asked_s: float) -> None:
        """Run by the worker of the measuring process."""

    for _ in range(WARM_UPS):  # the connection is opened, the statement prepared
        note.enqueue(asked_s=0.0)
    enqueues_ms: list[float] = []
    _gate.wait(TIMEOUT_S)
    begin_s = time.monotonic()
    while True:
        due_s = begin_s + (len(enqueues_ms) + client / CLIENTS) / rate
        if max(due_s, time.monotonic()) >= begin_s + seconds:
            break
        time.sleep(max(0.0, due_s - time.monotonic()))
        asked_s = time.monotonic()
        note.enqueue(asked_s=asked_s)
        enqueues_ms.append(1e3 * (time.monotonic() - asked_s))
    app.close()
    return begin_s, enqueues_ms

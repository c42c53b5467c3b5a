"""Pick-up latency of an idle worker, beside its poll interval.

Measured: from before `task.enqueue()` (its commit is inside) until the handler runs, with nothing
else to do, for the default `poll_s` and a short one; p50 and p99 of all samples. Jobs come at
random moments of the worker's pause. Beside: the poll interval.

Fair because it is what polling can reach: the pause is up to a quarter longer than `poll_s` at
random, which makes the ratio 0.56 at p50 and 1.2 at p99. Only wake-ups come well below that.
"""

from __future__ import annotations

import random
import sys
import time
from queue import SimpleQueue
from statistics import quantiles

from bench.harness import Figure, Place
from jobq import JobQueue, WorkerOptions

SAMPLES = {WorkerOptions().poll_s: 30, 0.05: 200}
"""How many to take at each `poll_s`, per repetition."""
TIMEOUT_S = 60.0


def run(place: Place, repeat: int) -> list[Figure]:
    taken_s: dict[float, list[float]] = {poll_s: [] for poll_s in SAMPLES}
    for repetition in range(repeat):
        print(f"repetition {repetition + 1} of {repeat}", file=sys.stderr)
        for poll_s, samples in SAMPLES.items():
            with place.database() as url:
                taken_s[poll_s] += _latencies_s(url, poll_s, samples)
    return [
        _figure(poll_s, percent, quantiles(latencies_s, n=100, method="inclusive")[percent - 1])
        for poll_s, latencies_s in taken_s.items()
        for percent in (50, 99)
    ]


def _figure(poll_s: float, percent: int, latency_s: float) -> Figure:
    name = f"pick-up, poll_s {poll_s:g}, p{percent}"
    return Figure(name, latency_s * 1e3, "ms", "poll interval", poll_s * 1e3, latency_s / poll_s)


def _latencies_s(url: str, poll_s: float, samples: int) -> list[float]:
    app = JobQueue(url)
    started_s: SimpleQueue[float] = SimpleQueue()

    @app.task(name="bench.note")
    def note() -> None:
        started_s.put(time.perf_counter())

    latencies_s: list[float] = []
    with app.worker(poll_s=poll_s):
        for _ in range(1 + samples):
            time.sleep(0.02 + random.uniform(0, 1.25 * poll_s))  # the worker is idle by then
            asked_s = time.perf_counter()
            note.enqueue()
            latencies_s.append(started_s.get(timeout=TIMEOUT_S) - asked_s)
    app.close()
    return latencies_s[1:]  # the first one opened the connections

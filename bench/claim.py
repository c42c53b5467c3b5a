"""Latency of a claim of one job, beside the same claim where there is nothing else.

Measured: the worker's own statement on the worker's own kind of connection, its commit inside,
where a million jobs are scheduled for tomorrow at a higher priority; where a thousand queues are
served and each has jobs; and where a thousand are served and only one has. Beside: a queue of a
thousand jobs and nothing else.

Fair because all four databases stand side by side in one server, vacuumed and checkpointed, and one
claim after the other goes to each of them, in a random order: what slows the machine or its disk
slows all four. As a worker's does, a claim asks a few of the queues that have jobs, in a random
order; which have, a worker with a backlog asks once a second, and here it is asked beforehand.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from statistics import median

from bench import tables
from bench.harness import Figure, Place, compare, settle
from bench.line import TASK
from jobq import JobQueue
from jobq.protocol.values import Claim
from jobq.worker.worker import FEW_QUEUES

SAMPLES = 200
"""Claims in each database, per repetition."""
MANY, QUEUES = 1_000_000, 1_000
NAMES = [f"default{number}" for number in range(QUEUES)]
ALONE = "claim, nothing else there"


def run(place: Place, repeat: int, *, scale: float = 1.0) -> list[Figure]:
    many, jobs = round(MANY * scale), max(1_000, repeat * SAMPLES)
    ready = partial(tables.ready, task=TASK, jobs=jobs)
    scheduled = partial(tables.scheduled, task=TASK, jobs=many)
    crowd = partial(tables.ready, task=TASK, jobs=max(many // 5, jobs), queues=QUEUES)
    with ExitStack() as opened:

        def claimer(queues: Sequence[str], *loads: Callable[[str], None]) -> Claimer:
            url = opened.enter_context(place.database())
            for load in loads:
                load(url)
            settle(url)
            return opened.enter_context(closing(Claimer(url, queues)))

        claimers = {
            ALONE: claimer(["default"], ready),
            "claim, 1 M scheduled ahead": claimer(["default"], scheduled, ready),
            "claim, each of 1,000 queues has jobs": claimer(NAMES, crowd),
            "claim, one of 1,000 queues has jobs": claimer(NAMES, partial(ready, queue=NAMES[-1])),
        }
        samples = {name: list[float]() for name in claimers}
        for repetition in range(repeat):
            print(f"repetition {repetition + 1} of {repeat}", file=sys.stderr)
            taken_ms = {name: list[float]() for name in claimers}
            for _ in range(SAMPLES):
                for name in random.sample(list(claimers), len(claimers)):
                    taken_ms[name].append(claimers[name].claim_ms())
            for name, each_ms in taken_ms.items():
                samples[name].append(median(each_ms))
    return [compare(samples, name, ALONE, "ms") for name in samples if name != ALONE]


class Claimer:
    """A database to claim from, one job at a time."""

    def __init__(self, url: str, queues: Sequence[str]) -> None:
        self._app = JobQueue(url)
        self._link = self._app.database.link()
        ready = self._link.run(self._app.database.store.ready_queues())
        self._queues = [queue for queue in ready if queue in set(queues)]

    def claim_ms(self) -> float:
        queues = random.sample(self._queues, min(len(self._queues), FEW_QUEUES))
        claim = Claim("bench", queues, [TASK], 1, lease_s=600.0)
        began_s = time.perf_counter()
        exchanged = self._link.run(self._app.database.store.exchange((), (), claim))
        took_s = time.perf_counter() - began_s
        assert len(exchanged.claimed) == 1, "there is a job for each claim"
        return took_s * 1e3

    def close(self) -> None:
        self._link.close()
        self._app.close()

"""Drain of jobs that do nothing, beside the bare protocol loop.

Measured: a real `Worker` that drains jobs whose handlers only count, `async def` and `def`, at
concurrency 10 (the default) and at concurrency 100 with 100 jobs leased ahead; each job ends DONE
with its commit record. Beside: one thread that completes 100 jobs and claims the next 100 in one
statement, with the worker's own store on the worker's own kind of connection.

Fair because the jobs and the statements are the worker's own. The loop calls no handlers, keeps no
lease alive and survives nothing, so the ratio shows what the worker's runtime costs; at concurrency
10 the worker itself decides how many jobs to lease ahead.
"""

from __future__ import annotations

from functools import partial
from time import perf_counter

from bench.harness import Figure, Measure, Place, Progress, alternate, compare, drain, fill
from jobq import JobQueue
from jobq.protocol.values import Claim, ClaimedJob
from jobq.worker import WorkerSettings

JOBS = 20_000
BATCH = 100
LOOP = f"bare protocol loop, batches of {BATCH}"
TASK = "bench.nothing"
SETTINGS: dict[str, WorkerSettings] = {
    "concurrency 10": {"concurrency": 10},
    "concurrency 100, prefetch 100": {"concurrency": 100, "prefetch": 100},
}


def run(place: Place, repeat: int) -> list[Figure]:
    measures: dict[str, Measure] = {LOOP: partial(drain_bare, BATCH)}
    for name, settings in SETTINGS.items():
        measures[f"async handlers, {name}"] = partial(_drain, settings, is_async=True)
        measures[f"sync handlers, {name}"] = partial(_drain, settings, is_async=False)
    samples = alternate(place, measures, repeat)
    return [compare(samples, name, LOOP) for name in measures if name != LOOP]


def _drain(settings: WorkerSettings, url: str, *, is_async: bool) -> float:
    app, progress = JobQueue(url), Progress(JOBS)

    async def tick() -> None:
        progress.tick()

    task = app.task(name=TASK)(tick if is_async else progress.tick)
    return drain(app, [task.request()] * JOBS, progress, **settings)


def drain_bare(batch: int, url: str) -> float:
    """Return the jobs per second of the bare protocol loop, on either backend."""
    app, progress = JobQueue(url), Progress(JOBS)
    fill(app, [app.task(name=TASK)(progress.tick).request()] * JOBS)
    store, link = app.database.store, app.database.link()

    def exchange(claimed: list[ClaimedJob]) -> list[ClaimedJob]:
        claim = Claim("bench", ["default"], [TASK], batch, lease_s=60.0)
        exchanged = link.run(store.exchange([job.lease for job in claimed], (), claim))
        assert not exchanged.unrecorded, "nobody else claims here"
        return exchanged.claimed

    claimed = exchange([])
    while claimed:
        for _ in claimed:
            progress.tick()
        claimed = exchange(claimed)
    ended_s = perf_counter()
    assert progress.all_ticked.is_set(), "the loop ended before every job was done"
    link.close()
    app.close()
    return progress.rate(ended_s)

"""The app of the benchmarks' worker processes: `jobq worker bench.served:app`.

On its own, because a worker's memory is measured: the benchmarks themselves are not in it.
"""

from __future__ import annotations

from jobq import JobQueue

NOTHING, NOTHING_IN_A_THREAD = "bench.nothing", "bench.nothing_in_a_thread"

app = JobQueue()


@app.task(name=NOTHING)
async def nothing() -> None:
    """Run on the worker's event loop."""


@app.task(name=NOTHING_IN_A_THREAD)
def nothing_in_a_thread() -> None:
    """Run in one of the worker's threads."""

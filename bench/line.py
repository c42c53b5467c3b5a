"""A line of no-op jobs, and the real worker that drains it lot by lot."""

from __future__ import annotations

from time import perf_counter

from bench.harness import Progress
from jobq import JobQueue

TASK = "bench.nothing"


class Line:
    """The jobs of TASK in one database."""

    def __init__(self, url: str) -> None:
        self.app = JobQueue(url)
        self._progress = Progress(1)

        @self.app.task(name=TASK)
        async def nothing() -> None:
            self._progress.tick()

        self._request = nothing.request()

    def drain_some(self, jobs: int) -> float:
        """Start a worker, have it drain so many of the jobs in line; return its jobs per second.

        What it leased ahead it runs or gives back."""
        self._progress = Progress(jobs)
        with self.app.worker():
            return self._rate()

    def pass_through(self, jobs: int) -> float:
        """Enqueue so many in one transaction, while a worker runs; return its jobs per second."""
        self._progress = Progress(jobs)
        self.app.enqueue_many([self._request] * jobs)
        return self._rate()

    def _rate(self) -> float:
        progress = self._progress
        progress.wait()
        return progress.rate(perf_counter())

    def close(self) -> None:
        self.app.close()

"""jobq, by the repository's own interpreter.

- `lease_s` 6: how long a dead worker's job waits (docs/workers.md). Heartbeats extend it.
- Effects: the handler takes the job and opens the commit boundary when it writes
  (docs/handlers.md), so that it is stopped just before its transaction, as the others are.
- `app.status` says where a job is.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import psycopg

from jobq import Job, JobQueue, Retry, schema
from scoreboard.adapter import DONE, FAILED, LEASE_S, RUNNING, WAITING, About, Given, Queue, main
from scoreboard.runs import INSERT, Run, perform


class Jobq(Queue):
    about = About(
        packages=("jobq", "psycopg"),
        settings={
            "lease_s": LEASE_S,
            "concurrency": 1,
            "prefetch": 0,
            "max_attempts": 3,
            "retry": "Retry(base_s=1, cap_s=1)",
        },
        effect="`job.commit()`: with the commit record, in one transaction",
        sources=("docs/workers.md", "docs/handlers.md"),
        states={
            "ready": WAITING,
            "scheduled": WAITING,
            "leased": RUNNING,
            "committed": RUNNING,  # the effect is there, and the worker's lease still is
            "done": DONE,
            "dead": FAILED,
        },
    )

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self.app = self.open()
        self.ids: dict[int, int] = {}
        runs = self.runs

        @self.app.task(name="charge", max_attempts=given.max_runs, retry=Retry(base_s=1, cap_s=1))
        def charge(job: Job, number: int) -> None:
            def apply(run: Run) -> None:
                with job.commit(psycopg.Connection) as db:
                    db.execute(INSERT, run.row)

            perform(runs.begin(number), apply)

        self.charge = charge

    def open(self) -> JobQueue:
        return JobQueue(self.url)

    def install(self) -> None:
        schema.upgrade(self.url)

    def enqueue(self, jobs: Sequence[int]) -> None:
        for number in jobs:
            self.ids[number] = self.charge.enqueue(number=number).id

    def states(self, jobs: Sequence[int]) -> list[str]:
        return [self.app.status(self.ids[number]).state.value for number in jobs]

    def work(self) -> None:
        with self.app.worker(concurrency=1, prefetch=0, lease_s=self.given.lease_s):
            threading.Event().wait()


if __name__ == "__main__":
    main(Jobq)

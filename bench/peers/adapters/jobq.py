"""jobq, by the repository's own interpreter.

Effects are jobq's own: the handler takes a connection, and what it writes commits with its commit
record (docs/handlers.md). The other settings are the defaults; `prefetch` follows the rate
(docs/workers.md).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import psycopg

from bench.peers.adapter import CHARGE_PSYCOPG, About, Adapter, Enqueue, Ran, main
from jobq import JobQueue, schema
from jobq.task import Task


class Jobq(Adapter):
    about = About(
        packages=("jobq", "psycopg", "sqlalchemy"),
        jobs={"drain": 100_000, "effects": 10_000, "enqueue": 200_000},
        settings={
            "drain": {"concurrency": 100},
            "effects": {"concurrency": 10},
            "latency": {"concurrency": 10},
        },
        # A job that is in none of these is done (docs/schema.md).
        is_open="""
    SELECT EXISTS (SELECT FROM jobq.ready) OR EXISTS (SELECT FROM jobq.leases)
           OR EXISTS (SELECT FROM jobq.scheduled)
    """,
    )

    def install(self) -> None:
        schema.upgrade(self.url)

    def producer(self) -> Enqueue:
        app = JobQueue(self.url)
        tasks = _tasks(app, lambda number: None)

        def enqueue(task: str, numbers: Sequence[int]) -> None:
            if len(numbers) == 1:
                tasks[task].enqueue(number=numbers[0])
            else:
                app.enqueue_many([tasks[task].request(number=number) for number in numbers])

        return enqueue

    def work(self, workload: str, ran: Ran) -> None:
        app = JobQueue(self.url)
        _tasks(app, ran)
        with app.worker(**self.about.settings[workload]):
            threading.Event().wait()


def _tasks(app: JobQueue, ran: Ran) -> dict[str, Task[Any, Any]]:
    @app.task(name="nothing")
    async def nothing(number: int) -> None:
        ran(number)

    @app.task(name="charge")
    def charge(db: psycopg.Connection[Any], number: int) -> None:
        for statement in CHARGE_PSYCOPG:
            db.execute(statement, (number,))
        ran(number)

    return {"nothing": nothing, "charge": charge}


if __name__ == "__main__":
    main(Jobq)

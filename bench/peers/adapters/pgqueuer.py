"""PgQueuer.

- asyncpg, on one connection for the queue, and uvloop: docs/comparisons/benchmarks.md finds asyncpg
  1.7 times as fast as psycopg, docs/guides/performance-tuning.md says "a single connection for
  QueueManager", and both the `pgq` command and tools/benchmark.py run on uvloop.
- `batch_size`: "Increase when jobs are short-lived" (performance-tuning.md). A thousand drained
  somewhat faster than 300 and 3,000, and faster than five managers of 200 each in the process.
- `pgq autovac` (performance-tuning.md), and the default durability: "durable".
- Effects: a pool in the shared resources (docs/guides/shared-resources.md). Ten transactions at
  once are ten connections in the pool; with a `batch_size` of 5, the largest that holds the jobs
  under way to ten, it is slower.
- Enqueueing: lists in one `enqueue` call (its benchmark does the same).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Context, Job
from pgqueuer.queries import Queries

from bench.peers.adapter import CHARGE_ASYNCPG, About, Adapter, Enqueue, Ran, main


class PgQueuerAdapter(Adapter):
    about = About(
        packages=("pgqueuer", "asyncpg", "uvloop"),
        jobs={"drain": 100_000, "effects": 15_000, "enqueue": 200_000},
        settings={
            "drain": {"batch_size": 1_000},
            "effects": {"batch_size": 500},
            "latency": {"batch_size": 10},
        },
        is_open="SELECT EXISTS (SELECT FROM pgqueuer)",
    )

    def install(self) -> None:
        async def install() -> None:
            queries = Queries(AsyncpgDriver(await asyncpg.connect(self.url)))
            await queries.install()
            await queries.optimize_autovacuum()

        _run(install())

    def producer(self) -> Enqueue:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        queries = Queries(AsyncpgDriver(runner.run(asyncpg.connect(self.url))))

        def enqueue(task: str, numbers: Sequence[int]) -> None:
            payloads = [b"%d" % number for number in numbers]
            runner.run(queries.enqueue([task] * len(numbers), payloads, [0] * len(numbers)))

        return enqueue

    def work(self, workload: str, ran: Ran) -> None:
        _run(self._work(workload, ran))

    async def _work(self, workload: str, ran: Ran) -> None:
        connection = await asyncpg.connect(self.url)
        pool = await asyncpg.create_pool(self.url, min_size=10, max_size=10)
        queue = PgQueuer.from_asyncpg_connection(connection, resources={"pool": pool})

        @queue.entrypoint("nothing")
        async def nothing(job: Job) -> None:
            ran(int(job.payload))

        @queue.entrypoint("charge")
        async def charge(job: Job, context: Context) -> None:
            number = int(job.payload)
            async with context.resources["pool"].acquire() as db, db.transaction():
                for statement in CHARGE_ASYNCPG:
                    await db.execute(statement, number)
            ran(number)

        await queue.run(**self.about.settings[workload])


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


if __name__ == "__main__":
    main(PgQueuerAdapter)

"""Chancy.

- The asyncio executor, "for running large numbers of IO-bound jobs" "without the high overhead of
  new processes or threads" (chancy/executors/asyncex.py). The default runs processes.
- `eager_polling`: fetch when a job completes, not at the next polling interval (chancy/queue.py).
- `concurrency`: 100, this executor's default; it bounds what a fetch takes as well.
- Effects: psycopg's pool, which Chancy itself stands on. Ten transactions at once are ten
  connections in the pool; with a `concurrency` of ten it is slower.
- Enqueueing: `sync_push_many`, "multiple jobs" (docs/howto/jobs.rst).
- What has run is written once a second (`send_outgoing_interval`), the default.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

from chancy import Chancy, Queue, Worker, job
from psycopg_pool import AsyncConnectionPool

from bench.peers.adapter import CHARGE_PSYCOPG, About, Adapter, Enqueue, Ran, main

here = SimpleNamespace()
"""What the handlers need: Chancy finds them by the name of their module, so it is the module's."""


@job()
async def nothing(*, number: int) -> None:
    here.ran(number)


@job()
async def charge(*, number: int) -> None:
    async with here.pool.connection() as db:  # a transaction of its own
        for statement in CHARGE_PSYCOPG:
            await db.execute(statement, (number,))
    here.ran(number)


class ChancyAdapter(Adapter):
    about = About(
        packages=("chancy", "psycopg"),
        jobs={"drain": 20_000, "effects": 6_000, "enqueue": 30_000},
        settings={
            "drain": {"concurrency": 100, "eager_polling": True},
            "effects": {"concurrency": 100, "eager_polling": True},
            "latency": {"concurrency": 100, "eager_polling": True},
        },
        is_open="""
        SELECT EXISTS (SELECT FROM chancy_jobs WHERE state NOT IN ('succeeded', 'failed'))
        """,
    )

    def install(self) -> None:
        async def install() -> None:
            async with Chancy(self.url) as chancy:
                await chancy.migrate()

        asyncio.run(install())

    def producer(self) -> Enqueue:
        chancy = Chancy(self.url)
        tasks = {"nothing": nothing.job, "charge": charge.job}

        def enqueue(task: str, numbers: Sequence[int]) -> None:
            jobs = [tasks[task].with_kwargs(number=number) for number in numbers]
            for _ in chancy.sync_push_many(jobs):
                pass

        return enqueue

    def work(self, workload: str, ran: Ran) -> None:
        here.ran = ran
        asyncio.run(self._work(workload))

    async def _work(self, workload: str) -> None:
        queue = Queue(
            name="default", executor=Chancy.Executor.Async, **self.about.settings[workload]
        )
        here.pool = AsyncConnectionPool(self.url, min_size=10, max_size=10, open=False)
        async with here.pool, Chancy(self.url) as chancy:
            await chancy.declare(queue, upsert=True)
            async with Worker(chancy) as worker:
                await worker.wait_for_shutdown()


if __name__ == "__main__":
    main(ChancyAdapter)

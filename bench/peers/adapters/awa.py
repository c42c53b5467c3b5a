"""Awa.

- `max_workers`: 512 and more are what docs/benchmarking.md takes for jobs that do nothing, "because
  no-op handlers hold permits while waiting for durable completion acknowledgement". Its
  `claim_batch_size` and its completions are batches of 512 by default.
- Enqueueing: `enqueue_many_copy`, "for bulk producers" (docs/configuration.md, "Producer path
  choice").
- Effects: "for application tables, keep using your existing database library" (README); asyncpg is
  the first that it names. Ten transactions at once are ten connections in the pool; with ten
  `max_workers` it is slower.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg  # type: ignore[import-untyped]
import awa

from bench.peers.adapter import CHARGE_ASYNCPG, About, Adapter, Enqueue, Ran, main

QUEUE = "bench"


@dataclass
class Nothing:
    number: int


@dataclass
class Charge:
    number: int


class AwaAdapter(Adapter):
    about = About(
        packages=("awa-pg", "asyncpg"),
        jobs={"drain": 40_000, "effects": 8_000, "enqueue": 200_000},
        settings={
            "drain": {"max_workers": 512},
            "effects": {"max_workers": 512},
            "latency": {"max_workers": 10},
        },
        is_open="SELECT EXISTS (SELECT FROM awa.jobs WHERE state <> 'completed')",
    )

    def install(self) -> None:
        async def install() -> None:
            async with awa.AsyncClient(self.url) as client:
                await client.migrate()
                # Its own benchmark does so too: else the first worker decides on the storage.
                await client.install_queue_storage()

        asyncio.run(install())

    def producer(self) -> Enqueue:
        client = awa.Client(self.url, max_connections=1)
        kinds = {"nothing": Nothing, "charge": Charge}

        def enqueue(task: str, numbers: Sequence[int]) -> None:
            jobs = [kinds[task](number) for number in numbers]
            if len(jobs) == 1:
                client.insert(jobs[0], queue=QUEUE)
            else:
                client.enqueue_many_copy(jobs, queue=QUEUE)

        return enqueue

    def work(self, workload: str, ran: Ran) -> None:
        asyncio.run(self._work(workload, ran))

    async def _work(self, workload: str, ran: Ran) -> None:
        client = awa.AsyncClient(self.url)
        pool = await asyncpg.create_pool(self.url, min_size=10, max_size=10)

        @client.task(Nothing, queue=QUEUE)
        async def nothing(job: awa.Job) -> None:
            ran(job.args.number)

        @client.task(Charge, queue=QUEUE)
        async def charge(job: awa.Job) -> None:
            number = job.args.number
            async with pool.acquire() as db, db.transaction():
                for statement in CHARGE_ASYNCPG:
                    await db.execute(statement, number)
            ran(number)

        await client.start([{"name": QUEUE, **self.about.settings[workload]}])
        await asyncio.Event().wait()


if __name__ == "__main__":
    main(AwaAdapter)

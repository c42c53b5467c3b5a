"""Oban for Python.

- A queue's limit is how many jobs run at once, and how many a fetch takes. 100 is the example of
  docs/production.md, which keeps the pool at its default of ten connections ("comfortable for most
  deployments").
- uvloop, which `oban start` uses where it is installed.
- Enqueueing: `enqueue_many`, "for better performance" (docs/quickstart.md).
- Effects: psycopg's pool, which Oban itself stands on. Ten transactions at once are ten connections
  in the pool; with a limit of ten it is slower.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import uvloop
from oban import Oban, job
from oban.schema import install
from psycopg_pool import AsyncConnectionPool

from bench.peers.adapter import CHARGE_PSYCOPG, About, Adapter, Enqueue, Ran, main

here = SimpleNamespace()
"""What the handlers need: Oban finds them by the name of their module, so it is the module's."""


@job()
async def nothing(number: int) -> None:
    here.ran(number)


@job()
async def charge(number: int) -> None:
    async with here.pool.connection() as db:  # a transaction of its own
        for statement in CHARGE_PSYCOPG:
            await db.execute(statement, (number,))
    here.ran(number)


class ObanAdapter(Adapter):
    about = About(
        packages=("oban", "psycopg"),
        jobs={"drain": 15_000, "effects": 8_000, "enqueue": 30_000},
        settings={
            "drain": {"limit": 100},
            "effects": {"limit": 100},
            "latency": {"limit": 100},
        },
        is_open="SELECT EXISTS (SELECT FROM oban_jobs WHERE state <> 'completed')",
    )

    def install(self) -> None:
        async def install_with_pool() -> None:
            await install(await Oban.create_pool(self.url))

        _run(install_with_pool())

    def producer(self) -> Enqueue:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        client = Oban(pool=runner.run(Oban.create_pool(self.url, min_size=1)))
        tasks = {"nothing": nothing, "charge": charge}

        def enqueue(task: str, numbers: Sequence[int]) -> None:
            runner.run(client.enqueue_many([tasks[task].new(number) for number in numbers]))

        return enqueue

    def work(self, workload: str, ran: Ran) -> None:
        here.ran = ran
        _run(self._work(workload))

    async def _work(self, workload: str) -> None:
        here.pool = AsyncConnectionPool(self.url, min_size=10, max_size=10, open=False)
        queues = {"default": self.about.settings[workload]}
        async with here.pool, Oban(pool=await Oban.create_pool(self.url), queues=queues):
            await asyncio.Event().wait()


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


if __name__ == "__main__":
    main(ObanAdapter)

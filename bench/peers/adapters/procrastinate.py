"""Procrastinate.

- `concurrency`: one job at a time by default; docs/howto/production/concurrency.md raises it, to 30
  in its example. Jobs that do nothing drained faster with five than with one, three, ten and 30:
  each sub-worker's fetch is a statement of its own. Ten for the effects.
- A pool of "as many connections as your concurrency (plus one)" (docs/discussions.md, "Mind the
  size of your PostgreSQL pool"). The effects have a pool of their own.
- Enqueueing: `batch_defer`, "multiple jobs at once" (docs/howto/basics/batch_defer.md).
- Finished jobs are kept, the default. `delete_jobs` would also forget that they ran.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from procrastinate import App, PsycopgConnector, SyncPsycopgConnector
from psycopg_pool import AsyncConnectionPool

from bench.peers.adapter import CHARGE_PSYCOPG, About, Adapter, Enqueue, Ran, main


class Procrastinate(Adapter):
    about = About(
        packages=("procrastinate", "psycopg"),
        jobs={"drain": 5_000, "effects": 4_000, "enqueue": 100_000},
        settings={
            "drain": {"concurrency": 5},
            "effects": {"concurrency": 10},
            "latency": {"concurrency": 10},
        },
        is_open="""
        SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))
        """,
    )

    def install(self) -> None:
        async def install() -> None:
            async with self._app(connections=1).open_async() as app:
                await app.schema_manager.apply_schema_async()

        asyncio.run(install())

    def producer(self) -> Enqueue:
        app = App(connector=SyncPsycopgConnector(conninfo=self.url, min_size=1, max_size=1))
        app.open()
        tasks = {name: app.configure_task(name) for name in ("nothing", "charge")}

        def enqueue(task: str, numbers: Sequence[int]) -> None:
            tasks[task].batch_defer(*({"number": number} for number in numbers))

        return enqueue

    def work(self, workload: str, ran: Ran) -> None:
        asyncio.run(self._work(workload, ran))

    async def _work(self, workload: str, ran: Ran) -> None:
        settings = self.about.settings[workload]
        app = self._app(connections=settings["concurrency"] + 1)
        pool = AsyncConnectionPool(self.url, min_size=10, max_size=10, open=False)

        @app.task(name="nothing")
        async def nothing(number: int) -> None:
            ran(number)

        @app.task(name="charge")
        async def charge(number: int) -> None:
            async with pool.connection() as db:  # a transaction of its own
                for statement in CHARGE_PSYCOPG:
                    await db.execute(statement, (number,))
            ran(number)

        async with pool, app.open_async():
            await app.run_worker_async(**settings)

    def _app(self, connections: int) -> App:
        connector = PsycopgConnector(conninfo=self.url, min_size=connections, max_size=connections)
        return App(connector=connector)


if __name__ == "__main__":
    main(Procrastinate)

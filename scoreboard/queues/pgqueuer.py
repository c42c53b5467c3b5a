"""PgQueuer.

- Dead workers' jobs: `heartbeat_timeout`, after which any worker picks the job again; heartbeats
  are sent at half of it (guides/heartbeat). `dequeue_timeout` 1 s, so that an idle worker looks
  every second.
- The manager is started again with new connections after a failure, as `pgq run
  --restart-on-failure` does (reference/cli). That command itself does not start here: with the
  release of typer that is current with it, it fails at its own `--log-level`.
- Failed jobs: `DatabaseRetryEntrypointExecutor`, for "any unhandled exception" (guides/retry). It
  lets a job run once more than its `max_attempts`.
- `max_concurrent_tasks` 2 with `batch_size` 1: it allows no less.
- Effects: asyncpg, a pool in the shared resources (guides/shared-resources), each in a transaction
  of its own. There is no completion in the caller's transaction: "ensure your job functions are
  idempotent" (guides/reliability).
- A job's state is that of `Queries.job_status`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.executors import DatabaseRetryEntrypointExecutor
from pgqueuer.models import Context, Job
from pgqueuer.queries import Queries

from scoreboard.adapter import DONE, FAILED, LEASE_S, RUNNING, WAITING, About, Queue, main
from scoreboard.runs import INSERT_ASYNCPG, Run, perform_async

DOCS = "https://pgqueuer.readthedocs.io/en/latest"
RESTART_DELAY_S = 1.0


class PgQueuerQueue(Queue):
    about = About(
        packages=("pgqueuer", "asyncpg", "uvloop"),
        settings={
            "heartbeat_timeout": LEASE_S,
            "dequeue_timeout": 1,
            "batch_size": 1,
            "max_concurrent_tasks": 2,
            "restart on failure": "after 1 s",
            "executor": "DatabaseRetryEntrypointExecutor(max_attempts=2, initial_delay=1 s)",
        },
        effect="in a transaction of its own",
        sources=tuple(
            f"{DOCS}/{page}/"
            for page in ("guides/heartbeat", "guides/retry", "guides/reliability", "reference/cli")
        ),
        states={
            "queued": WAITING,
            "picked": RUNNING,
            "successful": DONE,
            "exception": FAILED,
            "failed": FAILED,
            "canceled": FAILED,
            "deleted": FAILED,
        },
    )

    def install(self) -> None:
        async def install(queries: Queries) -> None:
            await queries.install()

        self._ask(install)
        self.ids: dict[int, Any] = {}

    def enqueue(self, jobs: Sequence[int]) -> None:
        async def enqueue(queries: Queries) -> None:
            payloads = [b"%d" % number for number in jobs]
            ids = await queries.enqueue(["charge"] * len(jobs), payloads, [0] * len(jobs))
            self.ids |= dict(zip(jobs, ids, strict=True))

        self._ask(enqueue)

    def states(self, jobs: Sequence[int]) -> list[str]:
        async def states(queries: Queries) -> list[str]:
            said = dict(await queries.job_status([self.ids[number] for number in jobs]))
            return [said[self.ids[number]] for number in jobs]

        found: list[str] = self._ask(states)
        return found

    def work(self) -> None:
        _run(self._work())

    async def _work(self) -> None:
        while True:
            try:
                async with self._manager() as manager:
                    await manager.run(
                        dequeue_timeout=timedelta(seconds=1),
                        batch_size=1,
                        max_concurrent_tasks=2,
                        heartbeat_timeout=timedelta(seconds=LEASE_S),
                    )
            except Exception:
                logging.exception("the manager failed, and is started again")
            await asyncio.sleep(RESTART_DELAY_S)

    @asynccontextmanager
    async def _manager(self) -> AsyncIterator[PgQueuer]:
        connection = await asyncpg.connect(self.url)
        async with asyncpg.create_pool(self.url, min_size=1, max_size=2) as pool:
            queue = PgQueuer.from_asyncpg_connection(connection, resources={"pool": pool})

            @queue.entrypoint(
                "charge",
                executor_factory=lambda parameters: DatabaseRetryEntrypointExecutor(
                    parameters=parameters,
                    max_attempts=self.given.max_runs - 1,
                    initial_delay=timedelta(seconds=1),
                    max_delay=timedelta(seconds=1),
                ),
            )
            async def charge(job: Job, context: Context) -> None:
                async def apply(run: Run) -> None:
                    async with context.resources["pool"].acquire() as db, db.transaction():
                        await db.execute(INSERT_ASYNCPG, *run.row)

                assert job.payload is not None
                await perform_async(self.runs.begin(int(job.payload)), apply)

            yield queue

    def _ask(self, ask: Any) -> Any:
        async def with_queries() -> Any:
            connection = await asyncpg.connect(self.url)
            try:
                return await ask(Queries(AsyncpgDriver(connection)))
            finally:
                await connection.close()

        return _run(with_queries())


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


if __name__ == "__main__":
    main(PgQueuerQueue)

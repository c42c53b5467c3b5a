"""Chancy.

- Dead workers' jobs: the plugin `Recovery`, run by the leader: `heartbeat_timeout` of the worker,
  polled every `poll_interval`; and `Leadership` with a timeout of twice its poll and more.
  https://tkte.ch/chancy/chancy.plugins.recovery.html. The recovery adds one to `max_attempts`.
- Failed jobs: `with_max_attempts` and `RetryPlugin`, whose backoff is in the job's meta.
  https://tkte.ch/chancy/chancy.plugins.retry.html
- The asyncio executor, "for running large numbers of IO-bound jobs"; `eager_polling`, so that the
  next job is fetched when one completes.
- Effects: psycopg's pool, which Chancy itself stands on; each in a transaction of its own. There is
  no completion in the caller's transaction: "care must be taken to ensure that jobs are idempotent"
  (https://tkte.ch/chancy/design.html).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

from chancy import Chancy, Worker, job
from chancy import Queue as ChancyQueue
from chancy.plugins.leadership import Leadership
from chancy.plugins.recovery import Recovery
from chancy.plugins.retry import RetryPlugin
from psycopg_pool import AsyncConnectionPool

from scoreboard.adapter import DONE, FAILED, LEASE_S, RUNNING, WAITING, About, Queue, main
from scoreboard.runs import INSERT, Run, perform_async

HEARTBEAT = {"heartbeat_poll_interval": 1, "heartbeat_timeout": int(LEASE_S)}
LEADERSHIP = {"poll_interval": 1, "timeout": 4}
RECOVERY = {"poll_interval": 1}
QUEUE = {"concurrency": 1, "eager_polling": True}
RETRIES = {"backoff": 1, "backoff_factor": 1.0, "backoff_jitter": [0, 0]}

here = SimpleNamespace()
"""What the handler needs: Chancy finds it by the name of its module, so it is the module's."""


@job()
async def charge(*, number: int) -> None:
    async def apply(run: Run) -> None:
        async with here.pool.connection() as db:
            await db.execute(INSERT, run.row)

    await perform_async(here.runs.begin(number), apply)


class ChancyRow(Queue):
    about = About(
        packages=("chancy", "psycopg"),
        settings={
            **HEARTBEAT,
            "Leadership": LEADERSHIP,
            "Recovery": RECOVERY,
            "RetryPlugin": RETRIES,
            "executor": "Async",
            **QUEUE,
            "max_attempts": 3,
        },
        effect="in a transaction of its own",
        sources=(
            "https://tkte.ch/chancy/chancy.plugins.recovery.html",
            "https://tkte.ch/chancy/chancy.plugins.retry.html",
            "https://tkte.ch/chancy/design.html",
        ),
        states={
            "pending": WAITING,
            "retrying": WAITING,
            "running": RUNNING,
            "succeeded": DONE,
            "failed": FAILED,
        },
    )

    def install(self) -> None:
        async def install() -> None:
            async with Chancy(self.url) as chancy:
                await chancy.migrate()

        asyncio.run(install())
        self.references: dict[int, object] = {}

    def enqueue(self, jobs: Sequence[int]) -> None:
        one = charge.job.with_max_attempts(self.given.max_runs)
        one = one.with_meta({"retry_settings": RETRIES})

        async def enqueue() -> None:
            async with Chancy(self.url) as chancy:
                for number in jobs:
                    pushed = await chancy.push(one.with_kwargs(number=number))
                    self.references[number] = pushed

        asyncio.run(enqueue())

    def states(self, jobs: Sequence[int]) -> list[str]:
        async def states() -> list[str]:
            async with Chancy(self.url) as chancy:
                found = [await chancy.get_job(self.references[number]) for number in jobs]
                return [each.state.value for each in found]

        return asyncio.run(states())

    def work(self) -> None:
        here.runs = self.runs
        asyncio.run(self._work())

    async def _work(self) -> None:
        check = AsyncConnectionPool.check_connection
        here.pool = AsyncConnectionPool(self.url, min_size=1, max_size=2, open=False, check=check)
        plugins = [Leadership(**LEADERSHIP), Recovery(**RECOVERY), RetryPlugin()]
        queue = ChancyQueue(name="default", executor=Chancy.Executor.Async, **QUEUE)
        async with here.pool, Chancy(self.url, plugins=plugins) as chancy:
            await chancy.declare(queue, upsert=True)
            async with Worker(chancy, **HEARTBEAT) as worker:
                await worker.wait_for_shutdown()


if __name__ == "__main__":
    main(ChancyRow)

"""Procrastinate.

- Dead workers' jobs: the periodic task that "Retry stalled jobs" gives, as it stands there. It
  calls `get_stalled_jobs` and retries each; nothing else does. `update_heartbeat_interval`,
  `stalled_worker_timeout` and `seconds_since_heartbeat` are adjusted together, as its note asks.
  https://procrastinate.readthedocs.io/en/stable/howto/production/retry_stalled_jobs.html
- Failed jobs: `RetryStrategy(max_attempts=...)`, which counts the retries after the first run.
  https://procrastinate.readthedocs.io/en/stable/howto/advanced/retry.html
- Effects: psycopg's pool, which Procrastinate itself stands on; each in a transaction of its own.
  There is no completion in the caller's transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from procrastinate import App, JobContext, PsycopgConnector, RetryStrategy, SyncPsycopgConnector
from psycopg_pool import AsyncConnectionPool

from scoreboard.adapter import DONE, FAILED, LEASE_S, RUNNING, WAITING, About, Queue, main
from scoreboard.runs import INSERT, Run, perform_async

HEARTBEAT_S = 1.0
RECIPE = "* * * * * */2"


class Procrastinate(Queue):
    about = About(
        packages=("procrastinate", "psycopg"),
        settings={
            "update_heartbeat_interval": HEARTBEAT_S,
            "stalled_worker_timeout": LEASE_S,
            "retry_stalled_jobs": f"every 2 s, seconds_since_heartbeat={LEASE_S:g}",
            "concurrency": 1,
            "retry": "RetryStrategy(max_attempts=2, wait=1)",
        },
        effect="in a transaction of its own",
        sources=(
            "https://procrastinate.readthedocs.io/en/stable/howto/production/retry_stalled_jobs.html",
            "https://procrastinate.readthedocs.io/en/stable/howto/advanced/retry.html",
        ),
        states={
            "todo": WAITING,
            "doing": RUNNING,
            "succeeded": DONE,
            "failed": FAILED,
            "aborted": FAILED,
            "cancelled": FAILED,
        },
    )

    def install(self) -> None:
        async def install() -> None:
            app = App(connector=PsycopgConnector(conninfo=self.url))
            async with app.open_async():
                await app.schema_manager.apply_schema_async()

        asyncio.run(install())
        self.ids: dict[int, int] = {}

    def enqueue(self, jobs: Sequence[int]) -> None:
        with App(connector=SyncPsycopgConnector(conninfo=self.url)).open() as app:
            task = app.configure_task("charge")
            for number in jobs:
                self.ids[number] = task.defer(number=number)

    def states(self, jobs: Sequence[int]) -> list[str]:
        with App(connector=SyncPsycopgConnector(conninfo=self.url)).open() as app:
            manager = app.job_manager
            return [manager.get_job_status(self.ids[number]).value for number in jobs]

    def work(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        app = App(connector=PsycopgConnector(conninfo=self.url))
        check = AsyncConnectionPool.check_connection
        pool = AsyncConnectionPool(self.url, min_size=1, max_size=2, open=False, check=check)

        async def apply(run: Run) -> None:
            async with pool.connection() as db:
                await db.execute(INSERT, run.row)

        @app.task(name="charge", retry=RetryStrategy(max_attempts=self.given.max_runs - 1, wait=1))
        async def charge(number: int) -> None:
            await perform_async(self.runs.begin(number), apply)

        @app.periodic(cron=RECIPE)
        @app.task(queueing_lock="retry_stalled_jobs", pass_context=True)
        async def retry_stalled_jobs(context: JobContext, timestamp: int) -> None:
            stalled = await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=LEASE_S)
            for job in stalled:
                await app.job_manager.retry_job(job)

        async with pool, app.open_async():
            await app.run_worker_async(
                concurrency=1,
                update_heartbeat_interval=HEARTBEAT_S,
                stalled_worker_timeout=LEASE_S,
            )


if __name__ == "__main__":
    main(Procrastinate)

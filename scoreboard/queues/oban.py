"""Oban for Python.

- Dead workers' jobs: `lifeline`, which rescues what has been executing for `rescue_after`, whoever
  runs it: "should be longer than your longest-running job" (Job Maintenance, "Rescuing Jobs"). Here
  no job is held for that long. Rescue by dead producers is Oban Pro's.
- The leader's term of 30 s is no public setting.
- Failed jobs: `max_attempts`, and the worker's `backoff` (Writing Jobs).
- Effects: psycopg's pool, which Oban itself stands on; each in a transaction of its own. There is
  no completion in the caller's transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import uvloop
from oban import Oban, worker
from oban.job import Job
from oban.schema import install
from psycopg_pool import AsyncConnectionPool

from scoreboard.adapter import AGE_S, DONE, FAILED, RUNNING, WAITING, About, Queue, main
from scoreboard.runs import INSERT, Run, perform_async

LIFELINE = {"interval": 1.0, "rescue_after": AGE_S}
DOCS = "https://oban.pro/docs/py"

here = SimpleNamespace()
"""What the handler needs: Oban finds it by the name of its module, so it is the module's."""


@worker()
class Charge:
    async def process(self, job: Job) -> None:
        async def apply(run: Run) -> None:
            async with here.pool.connection() as db:
                await db.execute(INSERT, run.row)

        await perform_async(here.runs.begin(job.args["number"]), apply)

    def backoff(self, job: Job) -> int:
        return 1


class ObanQueue(Queue):
    about = About(
        packages=("oban", "psycopg"),
        settings={"lifeline": LIFELINE, "queue limit": 1, "max_attempts": 3, "backoff": "1 s"},
        effect="in a transaction of its own",
        sources=(f"{DOCS}/job_maintenance.html", f"{DOCS}/writing_jobs.html"),
        states={
            "available": WAITING,
            "scheduled": WAITING,
            "retryable": WAITING,
            "executing": RUNNING,
            "completed": DONE,
            "discarded": FAILED,
            "cancelled": FAILED,
        },
    )

    def install(self) -> None:
        async def install_with_pool() -> None:
            await install(await Oban.create_pool(self.url))

        _run(install_with_pool())
        self.ids: dict[int, int] = {}

    def enqueue(self, jobs: Sequence[int]) -> None:
        async def enqueue(oban: Oban) -> None:
            limit = self.given.max_runs
            new: Any = Charge.new  # type: ignore[attr-defined]  # the decorator's
            enqueued = await oban.enqueue_many(
                [new({"number": number}, max_attempts=limit) for number in jobs]
            )
            self.ids |= {number: job.id for number, job in zip(jobs, enqueued, strict=True)}

        self._ask(enqueue)

    def states(self, jobs: Sequence[int]) -> list[str]:
        async def states(oban: Oban) -> list[str]:
            return [str((await oban.get_job(self.ids[number])).state) for number in jobs]

        found: list[str] = self._ask(states)
        return found

    def work(self) -> None:
        here.runs = self.runs
        _run(self._work())

    async def _work(self) -> None:
        check = AsyncConnectionPool.check_connection
        here.pool = AsyncConnectionPool(self.url, min_size=1, max_size=2, open=False, check=check)
        pool = await Oban.create_pool(self.url)
        async with here.pool, Oban(pool=pool, queues={"default": 1}, lifeline=LIFELINE):
            await asyncio.Event().wait()

    def _ask(self, ask: Any) -> Any:
        async def with_client() -> Any:
            pool = await Oban.create_pool(self.url, min_size=1)
            async with pool:
                return await ask(Oban(pool=pool))

        return _run(with_client())


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


if __name__ == "__main__":
    main(ObanQueue)

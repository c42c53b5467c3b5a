"""Awa.

- Dead workers' jobs: heartbeats, in the proportions that docs/configuration.md gives under
  "Reliability timings": staleness at least three times the interval. The maintenance leader
  rescues.
  https://github.com/hardbyte/awa/blob/main/docs/configuration.md
- Failed jobs: `max_attempts`, with its own exponential backoff (2 s, 4 s, and some jitter).
- Effects: "for application tables, keep using your existing database library" (README); asyncpg,
  each in a transaction of its own. Completion in the caller's one is planned (docs/adr/042),
  and not in this release's Python API.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg  # type: ignore[import-untyped]
import awa

from scoreboard.adapter import DONE, FAILED, LEASE_S, RUNNING, WAITING, About, Queue, main
from scoreboard.runs import INSERT_ASYNCPG, Run, perform_async

QUEUE = "scoreboard"
GONE = "pruned"
TIMINGS = {
    "heartbeat_interval_ms": 1_500,
    "heartbeat_staleness_ms": int(LEASE_S * 1_000),
    "heartbeat_rescue_interval_ms": 1_000,
    "leader_election_interval_ms": 1_000,
    "promote_interval_ms": 250,
}
DOCS = "https://github.com/hardbyte/awa/blob/main"


@dataclass
class Charge:
    number: int


class AwaQueue(Queue):
    about = About(
        packages=("awa-pg", "asyncpg"),
        settings={**TIMINGS, "max_workers": 1, "max_attempts": 3},
        effect="in a transaction of its own",
        sources=(
            f"{DOCS}/docs/configuration.md",
            f"{DOCS}/docs/adr/042-caller-owned-finalization-transactions.md",
        ),
        states={
            "scheduled": WAITING,
            "available": WAITING,
            "retryable": WAITING,
            "running": RUNNING,
            "waiting_external": RUNNING,
            "completed": DONE,
            GONE: DONE,
            "failed": FAILED,
            "cancelled": FAILED,
            "dead letter": FAILED,
        },
    )

    def install(self) -> None:
        async def install() -> None:
            async with awa.AsyncClient(self.url) as client:
                await client.migrate()
                await client.install_queue_storage()

        asyncio.run(install())
        self.ids: dict[int, int] = {}

    def enqueue(self, jobs: Sequence[int]) -> None:
        client = awa.Client(self.url, max_connections=1)
        for number in jobs:
            job = client.insert(Charge(number), queue=QUEUE, max_attempts=self.given.max_runs)
            self.ids[number] = job.id

    def states(self, jobs: Sequence[int]) -> list[str]:
        client = awa.Client(self.url, max_connections=1)
        return [self._state(client, self.ids[number]) for number in jobs]

    def _state(self, client: awa.Client, job_id: int) -> str:
        if client.get_dlq_job(job_id) is not None:
            return "dead letter"
        try:
            return str(client.get_job(job_id).state)
        except awa.AwaError:  # "job not found": completed jobs go when their ring rotates
            return GONE

    def work(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        client = awa.AsyncClient(self.url)
        pool = await asyncpg.create_pool(self.url, min_size=1, max_size=2)

        async def apply(run: Run) -> None:
            async with pool.acquire() as db, db.transaction():
                await db.execute(INSERT_ASYNCPG, *run.row)

        @client.task(Charge, queue=QUEUE)
        async def charge(job: awa.Job) -> None:
            await perform_async(self.runs.begin(job.args.number), apply)

        await client.start([{"name": QUEUE, "max_workers": 1}], **TIMINGS)
        await asyncio.Event().wait()


if __name__ == "__main__":
    main(AwaQueue)

"""Dramatiq, on dramatiq-postgres. (dramatiq-pg is for Dramatiq 1; its last release is of 2024.)

- One process. Its threads are the concurrency, 8 by default; the broker's pool keeps its default of
  16 connections ("Connection budget per worker process", README).
- `dramatiq_queue_prefetch` (dramatiq/worker.py): 256, as many as the broker claims at once. The
  default is two for each thread.
- No results are stored: none is asked for.
- Enqueueing: `send`, one by one: there is no bulk call. `notify` is off in bulk, "for maximum
  enqueue throughput" (README).
- Effects: ten threads, and a pool of ten connections.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

os.environ["dramatiq_queue_prefetch"] = "256"  # noqa: SIM112 - dramatiq reads it on import

import dramatiq
import psycopg
from dramatiq_postgres import PostgresBroker
from dramatiq_postgres.schema import init
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

from bench.peers.adapter import CHARGE_PSYCOPG, About, Adapter, Enqueue, Ran, main


class DramatiqAdapter(Adapter):
    about = About(
        packages=("dramatiq-postgres", "dramatiq", "psycopg"),
        jobs={"drain": 12_000, "effects": 8_000, "enqueue": 15_000},
        settings={
            "drain": {"worker_threads": 8},
            "effects": {"worker_threads": 10},
            "latency": {"worker_threads": 8},
        },
        is_open="SELECT EXISTS (SELECT FROM dramatiq.queue)",
    )

    def install(self) -> None:
        with psycopg.connect(self.url) as connection:
            init(connection.cursor())

    def producer(self) -> Enqueue:
        quiet, awaking = (
            {
                name: dramatiq.actor(print, actor_name=name, broker=self._broker(notify=notify))
                for name in ("nothing", "charge")
            }
            for notify in (False, True)
        )

        def enqueue(task: str, numbers: Sequence[int]) -> None:
            actor = (awaking if len(numbers) == 1 else quiet)[task]
            for number in numbers:
                actor.send(number)

        return enqueue

    def work(self, workload: str, ran: Ran) -> None:
        broker = self._broker(notify=True)
        pool = ConnectionPool(self.url, min_size=10, max_size=10, open=True)

        @dramatiq.actor(broker=broker)
        def nothing(number: int) -> None:
            ran(number)

        @dramatiq.actor(broker=broker)
        def charge(number: int) -> None:
            with pool.connection() as db:  # a transaction of its own
                for statement in CHARGE_PSYCOPG:
                    db.execute(statement, (number,))
            ran(number)

        dramatiq.Worker(broker, **self.about.settings[workload]).start()
        threading.Event().wait()

    def _broker(self, *, notify: bool) -> PostgresBroker:
        # Not the URL itself: it would lose a Unix socket's folder.
        return PostgresBroker(url=conninfo_to_dict(self.url), results=False, notify=notify)


if __name__ == "__main__":
    main(DramatiqAdapter)

"""Dramatiq, on dramatiq-postgres.

- Dead workers' jobs: `heartbeat_ttl`, looked for every `maintenance_interval` by one worker at a
  time ("Crash recovery" and "Configuration", README).
  https://github.com/danielgatis/dramatiq-postgres#configuration
- Failed jobs: `max_retries`, the runs after the first, and the backoff's bounds.
  https://dramatiq.io/guide.html#message-retries
- `dramatiq_queue_prefetch` 1: nothing is claimed ahead of the one thread.
- Effects: psycopg's pool, which the broker itself stands on; each in a transaction of its own.
  There is no completion in the caller's transaction.
- The state is that of the message's row in `dramatiq.queue` ("Tables", README): "a message is
  deleted as soon as it is acknowledged".
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

os.environ["dramatiq_queue_prefetch"] = "1"  # noqa: SIM112 - dramatiq reads it on import

import dramatiq
import psycopg
from dramatiq_postgres import PostgresBroker
from dramatiq_postgres.schema import init
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

from scoreboard.adapter import DONE, FAILED, LEASE_S, RUNNING, WAITING, About, Queue, main
from scoreboard.runs import INSERT, Run, perform

BROKER = {"heartbeat_interval": 1.0, "heartbeat_ttl": LEASE_S, "maintenance_interval": 1.0}
BACKOFF_MS = 1_000
STATE = "SELECT state::text FROM dramatiq.queue WHERE message_id = %s"
GONE = "deleted"


class DramatiqQueue(Queue):
    about = About(
        packages=("dramatiq-postgres", "dramatiq", "psycopg"),
        settings={
            **BROKER,
            "worker_threads": 1,
            "dramatiq_queue_prefetch": 1,
            "max_retries": 2,
            "backoff": "1 s at most",
        },
        effect="in a transaction of its own",
        sources=(
            "https://github.com/danielgatis/dramatiq-postgres#configuration",
            "https://dramatiq.io/guide.html#message-retries",
        ),
        states={"queued": WAITING, "consumed": RUNNING, GONE: DONE, "rejected": FAILED},
    )

    def install(self) -> None:
        with psycopg.connect(self.url) as connection:
            init(connection.cursor())
        self.ids: dict[int, str] = {}
        self.actor = dramatiq.actor(print, actor_name="charge", broker=self._broker())

    def enqueue(self, jobs: Sequence[int]) -> None:
        for number in jobs:
            self.ids[number] = self.actor.send(number).message_id

    def states(self, jobs: Sequence[int]) -> list[str]:
        with psycopg.connect(self.url) as db:
            rows = [db.execute(STATE, (self.ids[number],)).fetchone() for number in jobs]
        return [row[0] if row else GONE for row in rows]

    def work(self) -> None:
        broker = self._broker()
        check = ConnectionPool.check_connection
        pool = ConnectionPool(self.url, min_size=1, max_size=2, open=True, check=check)

        def apply(run: Run) -> None:
            with pool.connection() as db:
                db.execute(INSERT, run.row)

        @dramatiq.actor(
            broker=broker,
            max_retries=self.given.max_runs - 1,
            min_backoff=BACKOFF_MS,
            max_backoff=BACKOFF_MS,
        )
        def charge(number: int) -> None:
            perform(self.runs.begin(number), apply)

        dramatiq.Worker(broker, worker_threads=1).start()
        threading.Event().wait()

    def _broker(self) -> PostgresBroker:
        # Not the URL itself: it would lose a Unix socket's folder.
        return PostgresBroker(url=conninfo_to_dict(self.url), results=False, **BROKER)


if __name__ == "__main__":
    main(DramatiqQueue)

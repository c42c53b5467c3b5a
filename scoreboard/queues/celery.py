"""Celery, on Redis.

- Dead workers' jobs: `task_acks_late`, and the broker's `visibility_timeout`, after which a message
  that nobody acknowledged is delivered again, whoever runs it: it must be longer than the longest
  task. https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html
  `unacked_restore_interval` and `unacked_restore_throttle` say how often that is looked for.
  https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.transport.redis.html
- A dead pool process: `task_reject_on_worker_lost`, and `task_retry_on_worker_lost`, which lets
  `max_retries` count it. https://docs.celeryq.dev/en/stable/userguide/configuration.html
- Failed jobs: `autoretry_for` and `max_retries`, the runs after the first.
  https://docs.celeryq.dev/en/stable/userguide/tasks.html
- The pool of processes, the default, with `worker_prefetch_multiplier` 1.
- Effects: psycopg, each in a transaction of its own. Redis has no part in one of PostgreSQL's.
- The state is the result backend's, with `task_track_started`.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from celery import Celery

from scoreboard.adapter import AGE_S, DONE, FAILED, RUNNING, WAITING, About, Given, Queue, main
from scoreboard.runs import INSERT, Run, perform

TRANSPORT = {
    "visibility_timeout": AGE_S,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}
TASK = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_retry_on_worker_lost": True,
    "task_track_started": True,
    "worker_prefetch_multiplier": 1,
}
DOCS = "https://docs.celeryq.dev"


class CeleryQueue(Queue):
    about = About(
        packages=("celery", "kombu", "redis", "psycopg"),
        settings={
            "broker_transport_options": TRANSPORT,
            **TASK,
            "concurrency": 1,
            "autoretry_for": "Exception, after 1 s",
            "max_retries": 2,
        },
        effect="in a transaction of its own",
        sources=(
            f"{DOCS}/en/stable/getting-started/backends-and-brokers/redis.html",
            f"{DOCS}/en/stable/userguide/configuration.html",
            f"{DOCS}/projects/kombu/en/stable/reference/kombu.transport.redis.html",
        ),
        states={
            "PENDING": WAITING,
            "RETRY": WAITING,
            "STARTED": RUNNING,
            "SUCCESS": DONE,
            "FAILURE": FAILED,
            "REVOKED": FAILED,
        },
    )

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self.ids: dict[int, str] = {}
        self.app = Celery("scoreboard", broker=given.broker, backend=given.broker)
        self.app.conf.update(broker_transport_options=TRANSPORT, **TASK)

        def apply(run: Run) -> None:
            with psycopg.connect(self.url) as db:
                db.execute(INSERT, run.row)

        @self.app.task(
            name="charge",
            autoretry_for=(Exception,),
            default_retry_delay=1,
            max_retries=given.max_runs - 1,
        )
        def charge(number: int) -> None:
            perform(self.runs.begin(number), apply)

        self.charge = charge

    def install(self) -> None:
        """Redis needs no tables."""

    def enqueue(self, jobs: Sequence[int]) -> None:
        for number in jobs:
            self.ids[number] = self.charge.delay(number).id

    def states(self, jobs: Sequence[int]) -> list[str]:
        return [self.app.AsyncResult(self.ids[number]).state for number in jobs]

    def work(self) -> None:
        name = f"--hostname={self.given.worker}@%h"
        self.app.worker_main(["worker", "--concurrency=1", "--loglevel=WARNING", name])


if __name__ == "__main__":
    main(CeleryQueue)

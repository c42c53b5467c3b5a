"""DBOS Transact, a job being a workflow that has been enqueued; the effect in an ordinary step.

- Dead workers' jobs: "When an application with an executor ID restarts, it only recovers pending
  workflows assigned to that executor ID". So the worker that takes a place is started with the
  executor ID of the one before it. With Conductor, a service beside the database, another executor
  would. https://docs.dbos.dev/production/workflow-recovery
- `max_recovery_attempts` of the workflow, and `retries_allowed` of the step.
  https://docs.dbos.dev/python/reference/decorators. A step's retries are in its process and off by
  default; here they are on when the database crashes.
- `polling_interval_sec` of the queue: 0.2. https://docs.dbos.dev/python/reference/queues
- Effects: SQLAlchemy, each in a transaction of its own, inside the step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig

from scoreboard.adapter import DONE, FAILED, MAX_RUNS, RUNNING, WAITING, About, Queue, main
from scoreboard.runs import Run, perform

QUEUE = "scoreboard"
INSERT = sa.text("INSERT INTO ledger (job, run, worker) VALUES (:job, :run, :worker)")
DOCS = "https://docs.dbos.dev"


class DbosSteps(Queue):
    about = About(
        packages=("dbos", "psycopg", "sqlalchemy"),
        settings={
            "executor_id": "that of the worker whose place it takes",
            "worker_concurrency": 1,
            "polling_interval_sec": 0.2,
            "max_recovery_attempts": 2,
            "step retries": "none; 9 in the database crash",
        },
        effect="in a transaction of its own, inside a step",
        sources=(
            f"{DOCS}/production/workflow-recovery",
            f"{DOCS}/python/reference/decorators",
            f"{DOCS}/python/reference/queues",
        ),
        states={
            "DELAYED": WAITING,
            "ENQUEUED": WAITING,
            "PENDING": RUNNING,
            "SUCCESS": DONE,
            "ERROR": FAILED,
            "CANCELLED": FAILED,
            "MAX_RECOVERY_ATTEMPTS_EXCEEDED": FAILED,
        },
        recovery="restart",
        without={"frozen-leader": "no leader; its jobs come back when a worker is started again"},
    )

    def install(self) -> None:
        DBOS(config=self._config())
        DBOS.launch()
        DBOS.destroy()  # or the clerk would take jobs itself
        self.client = DBOSClient(system_database_url=self.url)

    def enqueue(self, jobs: Sequence[int]) -> None:
        for number in jobs:
            self.client.enqueue(
                {"queue_name": QUEUE, "workflow_name": "charge", "workflow_id": f"job-{number}"},
                number,
            )

    def states(self, jobs: Sequence[int]) -> list[str]:
        ids = [f"job-{number}" for number in jobs]
        found = {
            each.workflow_id: each.status for each in self.client.list_workflows(workflow_ids=ids)
        }
        return [found[one] for one in ids]

    def work(self) -> None:
        DBOS(config=self._config())
        handle = self.handler()

        @DBOS.workflow(name="charge", max_recovery_attempts=self.given.max_runs - 1)
        def charge(number: int) -> None:
            handle(number)

        DBOS.launch()
        DBOS.register_queue(
            QUEUE, worker_concurrency=1, polling_interval_sec=0.2, on_conflict="always_update"
        )
        threading.Event().wait()

    def handler(self) -> Callable[[int], None]:
        """What the workflow calls."""
        engine = sa.create_engine(
            sa.make_url(self.url).set(drivername="postgresql+psycopg"), pool_pre_ping=True
        )

        def apply(run: Run) -> None:
            with engine.begin() as db:
                db.execute(INSERT, dict(zip(("job", "run", "worker"), run.row, strict=True)))

        @DBOS.step(
            retries_allowed=self.given.max_runs > MAX_RUNS,
            interval_seconds=1.0,
            max_attempts=self.given.max_runs,
        )
        def step(number: int) -> None:
            perform(self.runs.begin(number), apply)

        def handle(number: int) -> None:
            step(number)

        return handle

    def _config(self) -> DBOSConfig:
        # One version for every process, or a worker leaves other processes' jobs alone.
        return {
            "name": QUEUE,
            "system_database_url": self.url,
            "application_version": "1",
            "executor_id": self.given.identity,
        }


if __name__ == "__main__":
    main(DbosSteps)

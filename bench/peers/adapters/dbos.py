"""DBOS Transact. A job is a workflow that has been enqueued.

- `worker_concurrency` bounds what a process takes in one poll; without it a worker starts a thread
  for everything that is enqueued. `polling_interval_sec` is how long it waits between two polls; a
  second by default, which alone would hold the drain to `worker_concurrency` jobs per second
  (https://docs.dbos.dev/python/reference/queues). 20, 50 and 200 were much alike.
- Enqueueing: `DBOSClient.enqueue_in_transaction`, a thousand in one transaction: there is no bulk
  call for workflows.
- Effects: a datasource's transaction, which commits DBOS's own record with the effect
  (https://docs.dbos.dev/python/reference/datasources); ten jobs at once, ten connections.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, SQLAlchemyDatasource

from bench.peers.adapter import CHARGE, About, Adapter, Enqueue, Ran, main

QUEUE = "bench"


class DbosAdapter(Adapter):
    about = About(
        packages=("dbos", "psycopg", "sqlalchemy"),
        jobs={"drain": 5_000, "effects": 1_000, "enqueue": 15_000},
        settings={
            "drain": {"worker_concurrency": 50, "polling_interval_sec": 0.01},
            "effects": {"worker_concurrency": 10, "polling_interval_sec": 0.01},
            "latency": {"worker_concurrency": 10, "polling_interval_sec": 0.01},
        },
        is_open="""
        SELECT EXISTS (SELECT FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING'))
        """,
    )

    def install(self) -> None:
        DBOS(config=self._config())
        SQLAlchemyDatasource.create(self.url)
        DBOS.launch()

    def producer(self) -> Enqueue:
        client = DBOSClient(system_database_url=self.url)
        engine = sa.create_engine(sa.make_url(self.url).set(drivername="postgresql+psycopg"))

        def enqueue(task: str, numbers: Sequence[int]) -> None:
            options = {"queue_name": QUEUE, "workflow_name": task}
            with engine.begin() as connection:
                for number in numbers:
                    client.enqueue_in_transaction(connection, options, number)

        return enqueue

    def work(self, workload: str, ran: Ran) -> None:
        DBOS(config=self._config())
        source = SQLAlchemyDatasource.create(self.url, {"pool_size": 10, "max_overflow": 0})
        statements = [sa.text(each.format(":number")) for each in CHARGE]

        @DBOS.workflow(name="nothing")
        def nothing(number: int) -> None:
            ran(number)

        @source.transaction
        def write(number: int) -> None:
            for statement in statements:
                source.sql_session().execute(statement, {"number": number})

        @DBOS.workflow(name="charge")
        def charge(number: int) -> None:
            write(number)
            ran(number)

        DBOS.launch()
        DBOS.register_queue(QUEUE, on_conflict="always_update", **self.about.settings[workload])
        threading.Event().wait()

    def _config(self) -> DBOSConfig:
        # One version for every process, or a worker leaves other processes' jobs alone.
        return {"name": QUEUE, "system_database_url": self.url, "application_version": "1"}


if __name__ == "__main__":
    main(DbosAdapter)

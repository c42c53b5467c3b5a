"""What the demo asks the database while its workers run."""

from __future__ import annotations

from sqlalchemy import create_engine, func, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from jobq.database.url import backend_of
from jobq.demo.processes import WorkerProcess
from jobq.demo.shop import QUEUE, SCHEMA, ledger
from jobq.models import tables_for


class Watch:
    """Questions, each on a connection of its own: the database may be restarted in between."""

    def __init__(self, url: URL) -> None:
        self.backend = backend_of(url)
        self.tables = tables_for(self.backend, SCHEMA)
        self.engine = create_engine(url, poolclass=NullPool)

    def charged(self) -> int:
        with self.engine.connect() as connection:
            return connection.execute(
                select(func.count(func.distinct(ledger.c.job_id)))
            ).scalar_one()

    def is_drained(self) -> bool:
        """Nothing of the demo is left in any place but its end."""
        jobs = self.tables["jobs"]
        with self.engine.connect() as connection:
            return not any(
                connection.execute(
                    select(place.c.job_id)
                    .join(jobs, jobs.c.id == place.c.job_id)
                    .where(jobs.c.queue == QUEUE)
                    .limit(1)
                ).first()
                for place in (self.tables[name] for name in ("ready", "scheduled", "leases"))
            )

    def leases_of(self, worker: WorkerProcess) -> int:
        leases = self.tables["leases"]
        with self.engine.connect() as connection:
            return connection.execute(
                select(func.count()).where(leases.c.worker.like(f"%:{worker.pid}:%"))
            ).scalar_one()

    def unfinished_of(self, worker: WorkerProcess) -> int:
        """How many of its leased jobs have their charge in the ledger already."""
        leases = self.tables["leases"]
        with self.engine.connect() as connection:
            return connection.execute(
                select(func.count())
                .select_from(leases.join(ledger, ledger.c.job_id == leases.c.job_id))
                .where(leases.c.worker.like(f"%:{worker.pid}:%"))
            ).scalar_one()

    def is_writable(self) -> bool:
        """Whether the frozen worker left the database to the others: SQLite's one write lock may
        be in its hands, and nothing but the worker itself can give it back."""
        if self.backend == "postgresql":
            return True
        with self.engine.connect() as connection:
            try:
                connection.exec_driver_sql("PRAGMA busy_timeout = 100")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            except DBAPIError:
                return False
            connection.exec_driver_sql("ROLLBACK")
            return True

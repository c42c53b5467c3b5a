"""A shop that charges its customers, driven by hand: one protocol step at a time.

The failure modes and the tests play the parts of workers and reconcilers on connections of their
own, in the order they choose. Nothing here waits: a lease expires because its row says so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import psycopg
from psycopg_pool import ConnectionPool

from jobq.commit import commit_effect_idempotent
from jobq.database.base import Database
from jobq.database.open import open_database
from jobq.database.url import conninfo, parse_url
from jobq.embedded import EmbeddedPostgres
from jobq.errors import Refusal
from jobq.models import DEFAULT_SCHEMA
from jobq.protocol.retention import Pruned, RetentionPolicy
from jobq.protocol.states import AttemptEnd, State
from jobq.protocol.values import (
    AttemptError,
    ClaimedJob,
    EndedAttempt,
    FailedAttempt,
    Heartbeat,
    JobRequest,
    JobStatus,
    Lease,
    Recovered,
    RefusedReport,
    Reported,
)
from jobq.store import Store

TASK = "shop.charge"
LEASE_S = 60.0
BOOM = AttemptError("ValueError", "boom", "Traceback: boom")


@dataclass
class Shop:
    """jobq's tables and a ledger in one database, and a hand on every step."""

    database: Database
    url: str
    schema: str = DEFAULT_SCHEMA
    server: EmbeddedPostgres | None = None
    """The database's own server, where a failure mode may stop and start it."""
    _spare: list[psycopg.Connection[Any]] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def open(
        cls, url: str, *, schema: str = DEFAULT_SCHEMA, server: EmbeddedPostgres | None = None
    ) -> Shop:
        """Open a migrated database and make the ledger in it."""
        shop = cls(open_database(parse_url(url), schema=schema), url, schema, server)
        shop.sql("CREATE TABLE ledger (job_id bigint, worker text)")
        return shop

    def close(self) -> None:
        while self._spare:
            self._spare.pop().close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def weaken(self, weakened: Callable[[Store], Store]) -> None:
        """Go on with a store that lacks one of the protocol's guards."""
        self.database.store = weakened(self.database.store)

    @property
    def is_sqlite(self) -> bool:
        return self.database.url.get_backend_name() == "sqlite"

    @property
    def driver(self) -> type[Any]:
        """The driver's connection class, as a handler would ask for it."""
        return sqlite3.Connection if self.is_sqlite else psycopg.Connection

    def sql(self, statement: str) -> list[Any]:
        """Run one statement in a transaction of its own, written for either backend."""
        (rows,) = self.all_sql([statement])
        return rows

    def all_sql(self, statements: Iterable[str]) -> list[list[Any]]:
        """`sql` for one after the other, on one connection."""
        if self.is_sqlite:
            connecting = sqlite3.connect(str(self.database.url.database), isolation_level=None)
            with closing(connecting) as connection:
                return [
                    connection.execute(statement.replace("jobq.", "jobq_")).fetchall()
                    for statement in statements
                ]
        with self._asking() as postgres:
            cursors = [
                postgres.execute(statement.replace("jobq.", f"{self.schema}.").encode())
                for statement in statements
            ]
            return [cursor.fetchall() if cursor.description else [] for cursor in cursors]

    @contextmanager
    def _asking(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection of nobody else's, kept for the next who asks: a new one takes longer than
        what is asked of it."""
        connection = None
        while connection is None and self._spare:
            connection = self._spare.pop()
            try:
                ConnectionPool.check_connection(connection)
            except psycopg.OperationalError:  # its server was stopped meanwhile
                connection.close()
                connection = None
        if connection is None:
            connection = psycopg.connect(
                conninfo(self.database.url), autocommit=True, prepare_threshold=None
            )
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._spare.append(connection)

    # -- the steps, each in its own transaction

    def enqueue(
        self,
        *,
        max_attempts: int = 5,
        queue: str = "default",
        task: str = TASK,
        args: str = "{}",
        priority: int = 0,
        run_at: datetime | None = None,
        delay_s: float = 0.0,
    ) -> int:
        request = JobRequest(
            task=task,
            args=args,
            queue=queue,
            priority=priority,
            max_attempts=max_attempts,
            run_at=run_at,
            delay_s=delay_s,
        )
        (job_id,) = self.database.run(self.database.store.enqueue([request]))
        return job_id

    def enqueue_many(self, count: int) -> list[int]:
        requests = [JobRequest(TASK, "{}", "default", 0, 5, None, 0.0) for _ in range(count)]
        return self.database.run(self.database.store.enqueue(requests))

    def claim(
        self,
        worker: str,
        limit: int = 1,
        *,
        queues: Sequence[str] = ("default",),
        tasks: Sequence[str] = (TASK,),
    ) -> list[ClaimedJob]:
        return self.database.run(
            self.database.store.claim(
                worker=worker, queues=queues, tasks=tasks, limit=limit, lease_s=LEASE_S
            )
        )

    def claim_one(self, worker: str) -> Lease:
        (claimed,) = self.claim(worker)
        return claimed.lease

    def expire(self, *leases: Lease) -> None:
        past = "0" if self.is_sqlite else "'2000-01-01'"
        for lease in leases:
            self.sql(
                f"UPDATE jobq.leases SET lease_expires_at = {past} "
                f"WHERE job_id = {lease.job_id} AND token = {lease.token}"
            )

    def reconcile(self, retry_delay_s: float = 0.0, *, limit: int = 100) -> Recovered:
        store = self.database.store
        return self.database.run(store.reconcile(limit, lambda _: retry_delay_s))

    def promote(self, limit: int = 100) -> int:
        return self.database.run(self.database.store.promote(limit))

    def recover(self, lease: Lease) -> Recovered:
        """The lease expires, the reconciler takes the job back, and it is due again."""
        self.expire(lease)
        recovered = self.reconcile()
        self.promote()
        return recovered

    def finalize(self, lease: Lease) -> None:
        self.database.run(self.database.store.finalize([lease]))

    def fail(self, lease: Lease, retry_delay_s: float | None = 0.0) -> Reported:
        failure = FailedAttempt(lease, AttemptEnd.FAILED, BOOM, retry_delay_s)
        return self.database.run(self.database.store.fail([failure]))

    def heartbeat(self, worker: str, *leases: Lease, lease_s: float = LEASE_S) -> Heartbeat:
        return self.database.run(self.database.store.heartbeat(worker, leases, lease_s))

    def complete(self, *leases: Lease) -> list[RefusedReport]:
        return self.database.run(self.database.store.complete(leases))

    def release(self, *leases: Lease) -> None:
        self.database.run(self.database.store.release(leases))

    def cancel(self, job_id: int) -> bool:
        return self.database.run(self.database.store.cancel(job_id))

    def grow_old(self, *job_ids: int, age_s: float) -> None:
        """All of it was so many seconds ago: the job's enqueueing, and its end if it has ended."""
        for job_id in job_ids:
            for table, column, key in (
                ("jobs", "created_at", "id"),
                ("commit_records", "recorded_at", "job_id"),
            ):
                past = (
                    f"{column} - {round(age_s * 1000)}"
                    if self.is_sqlite
                    else f"{column} - make_interval(secs => {age_s})"
                )
                self.sql(f"UPDATE jobq.{table} SET {column} = {past} WHERE {key} = {job_id}")

    def prune(
        self, policy: RetentionPolicy, *, after: int = 0, limit: int = 100, is_dry_run: bool = False
    ) -> Pruned:
        store = self.database.store
        return self.database.run(
            store.prune(policy, after=after, limit=limit, is_dry_run=is_dry_run)
        )

    def effect(self, lease: Lease, worker: str) -> OpenEffect:
        """Open the attempt's effect transaction, as a handler on the driver's connection does."""
        return OpenEffect(self, lease, worker)

    # -- what became of it

    def job(self, job_id: int) -> JobStatus:
        status = self.database.run(self.database.store.job(job_id))
        assert status is not None
        return status

    def state(self, job_id: int) -> State:
        return self.job(job_id).state

    def attempts(self, job_id: int) -> list[EndedAttempt]:
        return self.database.run(self.database.store.attempts(job_id))

    def ledger(self) -> list[str]:
        """Who charged, in any order."""
        return sorted(worker for (worker,) in self.sql("SELECT worker FROM ledger"))

    def records(self) -> list[tuple[int, str]]:
        return [
            (token, outcome)
            for token, outcome in self.sql("SELECT token, outcome FROM jobq.commit_records")
        ]


class OpenEffect:
    """One attempt's effect, a statement at a time. A refused attempt does nothing more."""

    def __init__(self, shop: Shop, lease: Lease, worker: str) -> None:
        self._lease = lease
        self._worker = worker
        self._boundary = commit_effect_idempotent(shop.database, lease, shop.driver)
        self.refusal: Refusal | None = None
        try:
            self.connection = self._boundary.__enter__()
        except Refusal as refusal:
            self.refusal = refusal

    @property
    def pid(self) -> int:
        """The server process of its connection, on PostgreSQL."""
        return int(self.connection.info.backend_pid)

    def charge(self) -> None:
        if self.refusal is None:
            charge(self.connection, self._lease, self._worker)

    def commit(self) -> None:
        if self.refusal is None:
            self._boundary.__exit__(None, None, None)

    def roll_back(self) -> None:
        if self.refusal is None:
            error = RuntimeError("the handler failed")
            self._boundary.__exit__(RuntimeError, error, None)


def charge(connection: Any, lease: Lease, worker: str) -> None:
    """The effect, on whatever connection the boundary gave."""
    connection.execute(f"INSERT INTO ledger VALUES ({lease.job_id}, '{worker}')")

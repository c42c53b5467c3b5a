"""FM_016: the database restarts, and the worker with what it had in hand is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import psycopg
from sqlalchemy.engine import make_url

from jobq.client import JobQueue
from jobq.database.execute import execute
from jobq.database.url import conninfo, parse_url
from jobq.failure_modes.catalogue import FailureMode, Finding, Needs
from jobq.failure_modes.shop import LEASE_S, TASK, Shop, charge
from jobq.failure_modes.transactions import WAIT_S, wait_until
from jobq.job import Job
from jobq.protocol.values import Lease

JOBS = 20
BETWEEN = 4
"""Charges before each fault."""
WORKER_LEASE_S = 3.0
BATCH = 10
# Not a superuser: for those PostgreSQL keeps connections free.
ROLE = "jobq_fm_worker"
MAKE_ROLE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
        EXECUTE format('CREATE ROLE {ROLE} LOGIN IN ROLE %I', current_user);
    END IF;
END $$
"""
KILL = f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{ROLE}'"
DONE = "SELECT count(*) FROM jobq.commit_records WHERE outcome = 'committed'"
FORGOTTEN = """
SELECT count(*) FROM ledger WHERE job_id NOT IN (SELECT job_id FROM jobq.commit_records)
"""


class RunningWorker(Protocol):
    def is_alive(self) -> bool: ...

    def wait_until_refused(self) -> None:
        """Return when it has asked for a connection and was told that there is none."""


Start = Callable[[Shop, str, threading.Semaphore], AbstractContextManager[RunningWorker]]
Fault = Callable[[Shop, RunningWorker], None]


# -- the faults


def restart(shop: Shop, _: RunningWorker) -> None:
    """A crash: no session is told goodbye."""
    assert shop.server is not None
    shop.server.restart("immediate")


def kill_sessions(shop: Shop, _: RunningWorker) -> None:
    """What a failover of a pooler, or an administrator, does."""
    shop.sql(KILL)


def no_free_slot(shop: Shop, worker: RunningWorker) -> None:
    """Every session gone, and none to be had until the worker has met the refusal."""
    shop.sql(f"ALTER ROLE {ROLE} CONNECTION LIMIT 0")
    shop.sql(KILL)
    worker.wait_until_refused()
    shop.sql(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")


FAULTS: tuple[Fault, ...] = (restart, kill_sessions, no_free_slot)


# -- the workers


class OneConnectionWorker(threading.Thread):
    """Connects once, and saves round trips: ten jobs are marked done by one statement."""

    def __init__(self, shop: Shop, url: str, permits: threading.Semaphore) -> None:
        super().__init__(name="one-connection", daemon=True)
        self._shop = shop
        self._conninfo = conninfo(parse_url(url))
        self._permits = permits

    def wait_until_refused(self) -> None:
        """It asked once, at its start, and never asks again."""

    def run(self) -> None:
        store = self._shop.database.store
        claim = {"worker": "A", "queues": ["default"], "tasks": [TASK], "lease_s": LEASE_S}
        done: list[Lease] = []
        try:
            with psycopg.connect(self._conninfo) as connection:
                while claimed := execute(store.claim(limit=BATCH, **claim), connection):  # type: ignore[arg-type]
                    connection.commit()
                    for job in claimed:
                        self._permits.acquire(timeout=WAIT_S)
                        charge(connection, job.lease, "A")
                        connection.commit()
                        done.append(job.lease)
                        if len(done) == BATCH:
                            execute(store.complete(done), connection)
                            connection.commit()
                            done.clear()
        except psycopg.OperationalError:
            return  # its traceback is in a log, and the buffer is gone


@contextmanager
def one_connection_worker(
    shop: Shop, url: str, permits: threading.Semaphore
) -> Iterator[RunningWorker]:
    worker = OneConnectionWorker(shop, url, permits)
    worker.start()
    try:
        yield worker
    finally:
        permits.release(JOBS)
        worker.join(WAIT_S)


class _Listener(logging.Handler):
    """Hears the worker say that there is no connection for it."""

    def __init__(self) -> None:
        super().__init__()
        self._refusals = 0

    def emit(self, record: logging.LogRecord) -> None:
        self._refusals += "too many connections" in record.getMessage()

    def wait_until_refused(self) -> None:
        before = self._refusals
        wait_until(lambda: self._refusals > before, "the worker to be refused a connection")

    def is_alive(self) -> bool:
        return True  # leaving its block raises what ended it


@contextmanager
def jobq_worker(shop: Shop, url: str, permits: threading.Semaphore) -> Iterator[RunningWorker]:
    app = JobQueue(url, schema=shop.schema)

    @app.task(name=TASK)
    def charge_when_let(job: Job) -> None:
        permits.acquire(timeout=WAIT_S)
        with job.commit(psycopg.Connection) as connection:
            charge(connection, Lease(job.id, job.fencing_token), "A")

    heard = _Listener()
    logger = logging.getLogger("jobq.worker")
    logger.addHandler(heard)
    try:
        # What was claimed while the answer got lost is nobody's until its lease is over.
        with app.worker(poll_s=0.05, concurrency=2, lease_s=WORKER_LEASE_S):
            try:
                yield heard
            finally:
                permits.release(JOBS)
    finally:
        logger.removeHandler(heard)


def play(shop: Shop, start: Start, faults: Sequence[Fault]) -> Finding:
    """Some charges, a fault, some charges, the next fault; then let everything be done."""
    url = url_of_worker(shop)
    job_ids = shop.enqueue_many(JOBS)
    permits = threading.Semaphore(0)

    def has(charges: int) -> Callable[[], bool]:
        return lambda: len(shop.ledger()) >= charges or not worker.is_alive()

    with start(shop, url, permits) as worker:
        for number, fault in enumerate(faults, 1):
            permits.release(BETWEEN)
            wait_until(has(number * BETWEEN), f"{number * BETWEEN} charges")
            fault(shop, worker)
        permits.release(JOBS)
        wait_until(
            lambda: count(shop, DONE) == len(job_ids) or not worker.is_alive(),
            "every job to be done",
        )
        is_alive = worker.is_alive()

    done, forgotten, charges = count(shop, DONE), count(shop, FORGOTTEN), len(shop.ledger())
    return Finding(
        is_harmed=done < len(job_ids),
        detail=f"{done} of {len(job_ids)} jobs are done"
        + ("" if is_alive else ", and the worker is gone")
        + (f"; {forgotten} were charged and forgotten" if forgotten else ", each charged once"),
        seen={"done": done, "charges": charges, "forgotten": forgotten, "is_alive": is_alive},
    )


def url_of_worker(shop: Shop) -> str:
    """The shop's database for a role that has its rights, and may be refused a connection."""
    shop.sql(MAKE_ROLE)
    return make_url(shop.url).set(username=ROLE).render_as_string(hide_password=False)


def count(shop: Shop, query: str) -> int:
    ((found,),) = shop.sql(query)
    return int(found)


def reproduce(shop: Shop) -> Finding:
    """On a worker that connects when it starts, and keeps its completions until there are ten."""
    return play(shop, one_connection_worker, (restart,))


def prevent(shop: Shop) -> Finding:
    return play(shop, jobq_worker, FAULTS)


FM = FailureMode(
    id="FM_016",
    title="database restart, killed sessions, no free connection",
    invariants=("I2", "I6"),
    reproduce=reproduce,
    prevent=prevent,
    needs=Needs.SERVER,
    not_on_sqlite="there is no server, no session and no limit of connections",
)

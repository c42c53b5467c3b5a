"""FM_013: a worker that waits to be told of a job is never told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import psycopg
from sqlalchemy.engine import make_url

from jobq.client import JobQueue
from jobq.database.url import conninfo, parse_url
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.proxy import Proxy, proxy_to
from jobq.failure_modes.shop import TASK, Shop, charge
from jobq.failure_modes.transactions import WAIT_S, wait_until
from jobq.job import Job
from jobq.protocol.values import Lease

CHANNEL = "jobq_fm_013"
APPLICATION = "jobq_fm_013"
LEASE_S = 8.0
"""A worker gives up a connection that does not answer after half of it."""
TERMINATE = f"""
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE application_name = '{APPLICATION}' AND datname = current_database()
"""


class RunningWorker(Protocol):
    def is_alive(self) -> bool: ...

    def has_missed_it(self) -> bool:
        """Whether the last notification went by, and none is on its way."""

    def come_back(self) -> None:
        """Let it reconnect, if it was disconnected."""


Start = Callable[[Shop, Proxy], AbstractContextManager[RunningWorker]]
Fault = Callable[[Shop, Proxy], Any]


# -- the faults


def half_open(_: Shop, wire: Proxy) -> None:
    """The server's words are lost on the way; both ends think that they are connected."""
    wire.hold_listeners()


def terminated(shop: Shop, _: Proxy) -> None:
    """The session ends, and another one begins a moment later."""
    shop.sql(TERMINATE)


# -- the workers


class ListeningWorker(threading.Thread):
    """Takes what there is, and then waits for NOTIFY. It reconnects, and listens again."""

    def __init__(self, shop: Shop, wire: Proxy) -> None:
        super().__init__(name="listening", daemon=True)
        self.listens = 0
        self._shop = shop
        self._wire = wire
        self._back = threading.Event()
        self._closing = threading.Event()

    def has_missed_it(self) -> bool:
        return self.listens > 1 or self._wire.held_bytes > 0

    def come_back(self) -> None:
        self._back.set()

    def run(self) -> None:
        self._take()
        while not self._closing.is_set():
            try:
                self._listen()
            except psycopg.OperationalError:
                self._back.wait(WAIT_S)  # its pause before it connects again

    def _listen(self) -> None:
        with psycopg.connect(conninfo(parse_url(self._wire.url)), autocommit=True) as connection:
            connection.execute(f"LISTEN {CHANNEL}")
            self.listens += 1
            while not self._closing.is_set():
                for _ in connection.notifies(timeout=0.1, stop_after=1):
                    self._take()

    def _take(self) -> None:
        for claimed in self._shop.claim("A", 10):
            effect = self._shop.effect(claimed.lease, "A")
            effect.charge()
            effect.commit()

    def close(self) -> None:
        self._closing.set()
        self._back.set()
        self.join(WAIT_S)


@contextmanager
def listening_worker(shop: Shop, wire: Proxy) -> Iterator[RunningWorker]:
    worker = ListeningWorker(shop, wire)
    worker.start()
    try:
        wait_until(lambda: worker.listens > 0, "the worker to listen")
        yield worker
    finally:
        worker.close()


class _Polls:
    """jobq's worker: it looks for itself."""

    def is_alive(self) -> bool:
        return True  # leaving its block raises what ended it

    def has_missed_it(self) -> bool:
        return False

    def come_back(self) -> None:
        """It does."""


@contextmanager
def jobq_worker(shop: Shop, wire: Proxy) -> Iterator[RunningWorker]:
    app = JobQueue(wire.url, schema=shop.schema)

    @app.task(name=TASK)
    def charge_order(job: Job) -> None:
        with job.commit(psycopg.Connection) as connection:
            charge(connection, Lease(job.id, job.fencing_token), "A")

    with app.worker(poll_s=0.1, lease_s=LEASE_S):
        yield _Polls()


def play(shop: Shop, start: Start, fault: Fault) -> Finding:
    """A job is announced and done; then the worker's session is hurt; then comes another job."""
    url = make_url(shop.url).update_query_dict({"application_name": APPLICATION})
    with (
        proxy_to(url.render_as_string(hide_password=False)) as wire,
        start(shop, wire) as worker,
    ):
        announce(shop)
        wait_until(lambda: len(shop.ledger()) == 1, "the first job to be done")
        fault(shop, wire)
        job_id = announce(shop)
        worker.come_back()
        wait_until(
            lambda: worker.has_missed_it() or len(shop.ledger()) == 2,
            "the second job to be done, or its notification to be lost",
        )
        is_alive, state, charges = worker.is_alive(), shop.state(job_id), len(shop.ledger())

    return Finding(
        is_harmed=charges < 2,
        detail="the job was done, whatever was lost on the way"
        if charges == 2
        else f"the job is {state.value}, its worker is well and waits to be told",
        seen={"charges": charges, "state": state, "is_alive": is_alive},
    )


def announce(shop: Shop) -> int:
    job_id = shop.enqueue()
    shop.sql(f"NOTIFY {CHANNEL}")
    return job_id


def reproduce(shop: Shop) -> Finding:
    """On a worker that LISTENs, through a connection that went half-open."""
    return play(shop, listening_worker, half_open)


def prevent(shop: Shop) -> Finding:
    return play(shop, jobq_worker, half_open)


FM = FailureMode(
    id="FM_013",
    title="deaf worker waits for a notification",
    invariants=("I6", "liveness"),
    reproduce=reproduce,
    prevent=prevent,
    not_on_sqlite="SQLite has no LISTEN and NOTIFY; workers can only look",
)

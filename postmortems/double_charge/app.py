"""What the workers run: a charge, with a moment before it and a moment after it.

The moments are where the run stops a worker. A handler passes them through an advisory lock of its
own process, so that the run can hold them shut, see who stands before them, and stop the process
there. In life they are the services that a handler asks: the fraud check, the receipt.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from enum import IntEnum
from typing import Any

import psycopg

from jobq import Job, JobQueue, Retry
from jobq.database.url import conninfo
from jobq.failure_modes.naive import NaivePostgresStore
from jobq.failure_modes.weakened import WeakenedQueue, by
from jobq.protocol.values import Heartbeat, Lease
from jobq.store.step import Step
from postmortems.shop import CHARGE

NAIVE_VARIABLE = "POSTMORTEM_NAIVE"
WORK_VARIABLE = "POSTMORTEM_WORK_S"
WORK_S = float(os.environ.get(WORK_VARIABLE, "0"))
QUEUE = "billing"
PASS = "SELECT pg_advisory_xact_lock_shared(%s, %s)"


class Moment(IntEnum):
    FRAUD_CHECK = 1
    """Before the charge."""
    RECEIPT = 2
    """After it, and before the worker says that the job is done."""


class FirstQueueStore(NaivePostgresStore):
    """The queue that the company wrote first: no commit record, and nobody is told of a lost lease.

    The naive worker of FM_001 hears from its heartbeat, some time after it woke up, that its lease
    is gone, and may or may not have charged by then. Most queues do not ask; and where one does,
    the pause fits between its question and its charge.
    """

    def heartbeat(
        self, worker: str, leases: Sequence[Lease], lease_s: float, about: str | None = None
    ) -> Step[Heartbeat]:
        yield from super().heartbeat(worker, leases, lease_s, about)
        return Heartbeat(frozenset(), frozenset())


app = WeakenedQueue(by(FirstQueueStore)) if os.environ.get(NAIVE_VARIABLE) else JobQueue()
_of_thread = threading.local()


def pass_through(moment: Moment) -> None:
    """Wait for as long as the run holds this moment shut for this process."""
    if not hasattr(_of_thread, "session"):
        _of_thread.session = psycopg.connect(conninfo(app.url), autocommit=True)
    session: psycopg.Connection[Any] = _of_thread.session
    session.execute(PASS.encode(), (moment.value, os.getpid()))


@app.task(name="charge", queue=QUEUE, max_attempts=10, retry=Retry(base_s=0.2, cap_s=1.0))
def charge(job: Job, order_id: int, cents: int) -> None:
    """Charge for an order."""
    claimed_at = job.due_at + timedelta(seconds=job.waited_s)
    time.sleep(WORK_S)
    pass_through(Moment.FRAUD_CHECK)
    with job.commit(psycopg.Connection) as db:
        db.execute(CHARGE.encode(), (order_id, cents, claimed_at, os.getpid()))
    pass_through(Moment.RECEIPT)

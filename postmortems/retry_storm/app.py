"""The charge as jobq's workers run it, and the task by which both queues know it."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import psycopg

from jobq import Job, JobQueue
from postmortems.shop import CHARGE

PATIENCE_VARIABLE = "POSTMORTEM_PATIENCE_S"

app = JobQueue()


@app.task(name="charge", queue="billing")
def charge(db: psycopg.Connection[Any], job: Job, order_id: int, cents: int) -> None:
    """Charge for an order. The server is told for how long it is worth trying."""
    patience_ms = int(1000 * float(os.environ[PATIENCE_VARIABLE]))
    db.execute(f"SET LOCAL statement_timeout = {patience_ms}".encode())
    claimed_at = job.due_at + timedelta(seconds=job.waited_s)
    db.execute(CHARGE.encode(), (order_id, cents, claimed_at, os.getpid()))

"""The demo's shop: the app that its worker processes run.

A charge works for a while, then writes the ledger and the balance inside the commit boundary.
"""

from __future__ import annotations

import os
import random
import time

from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text, insert, update

from jobq import Job, JobQueue, Retry
from jobq.failure_modes.naive import naive_queue

SCHEMA = "jobq_demo"
QUEUE = "jobq-demo"
NAIVE_VARIABLE = "JOBQ_DEMO_NAIVE"
WORK_VARIABLE = "JOBQ_DEMO_WORK_S"

metadata = MetaData()
accounts = Table(
    "jobq_demo_accounts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("balance_cents", BigInteger, nullable=False),
)
# No unique key on job_id: nothing but the queue's protocol stands against a double charge.
ledger = Table(
    "jobq_demo_ledger",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", BigInteger, nullable=False),
    Column("account_id", Integer, nullable=False),
    Column("cents", BigInteger, nullable=False),
    Column("charged_by", Text, nullable=False),
)

WORK_S = float(os.environ.get(WORK_VARIABLE, "0.02"))

app = (naive_queue if os.environ.get(NAIVE_VARIABLE) else JobQueue)(schema=SCHEMA)


@app.task(name="jobq.demo.charge", queue=QUEUE, max_attempts=25, retry=Retry(base_s=0.1, cap_s=1.0))
def charge(job: Job, account_id: int, cents: int) -> None:
    """Charge an account. The pause is where a customer is charged twice elsewhere."""
    time.sleep(random.uniform(0.5, 1.5) * WORK_S)  # noqa: S311 - work, not secrets
    with job.commit() as db:
        db.execute(
            update(accounts)
            .where(accounts.c.id == account_id)
            .values(balance_cents=accounts.c.balance_cents - cents)
        )
        db.execute(
            insert(ledger).values(
                job_id=job.id, account_id=account_id, cents=cents, charged_by=str(os.getpid())
            )
        )

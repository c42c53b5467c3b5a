"""The app of the chaos workers: one task for each way a handler may apply its effect.

Every charge writes one row of the ledger, with the token it was written under. What goes wrong in
a handler is in its arguments, so that a job fails in the same way wherever it runs.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from jobq import Job, JobQueue, Retry
from jobq.errors import Refusal
from jobq.failure_modes.naive import naive_queue
from tests.chaos.books import ledger
from tests.chaos.clock import shift_as_told
from tests.chaos.history import History, Op
from tests.chaos.observe import observe

FOLDER_VARIABLE = "JOBQ_CHAOS_FOLDER"
ROLE_VARIABLE = "JOBQ_CHAOS_ROLE"
NAIVE_VARIABLE = "JOBQ_CHAOS_NAIVE"

RETRY = Retry(base_s=0.1, cap_s=0.5)
INSERT = "INSERT INTO chaos_ledger (job_id, token, attempt) VALUES (%s, %s, %s)"
SQL_ERROR = "SELECT 1 / 0"

shift_as_told()
history = History(Path(os.environ[FOLDER_VARIABLE]), os.environ[ROLE_VARIABLE])
observe(history)
app = naive_queue(schema="jobq") if os.environ.get(NAIVE_VARIABLE) else JobQueue()


class Boom(Exception):
    """The failure that a job was enqueued with."""


def row(job: Job) -> dict[str, Any]:
    """The ledger row of this attempt; it says in the history that the row is about to be."""
    history.write(Op.EFFECT, job=job.id, token=job.fencing_token, attempt=job.attempt)
    return {"job_id": job.id, "token": job.fencing_token, "attempt": job.attempt}


def fail_if(trouble: str, where: str, job: Job, until: int) -> None:
    """Raise in the attempts up to number `until`."""
    if trouble == where and job.attempt <= until:
        raise Boom(f"attempt {job.attempt} was to fail {where}")


@app.task(name="chaos.charge", retry=RETRY)
def charge(job: Job, key: str, work_s: float, trouble: str, until: int) -> None:
    time.sleep(work_s)
    fail_if(trouble, "before", job, until)
    # A handler may be deaf to the refusal; the worker is not.
    with suppress(*([Refusal] if trouble == "deaf" else [])), job.commit() as db:
        db.execute(insert(ledger).values(row(job)))
        if trouble == "swallow" and job.attempt <= until:
            with suppress(DBAPIError):
                db.execute(text(SQL_ERROR))
        time.sleep(work_s / 4)
        fail_if(trouble, "inside", job, until)


@app.task(name="chaos.charge_in_session", retry=RETRY)
def charge_in_session(
    db: Session, job: Job, key: str, work_s: float, trouble: str, until: int
) -> None:
    fail_if(trouble, "before", job, until)
    db.execute(insert(ledger).values(row(job)))
    time.sleep(work_s)
    fail_if(trouble, "inside", job, until)


@app.task(name="chaos.charge_on_driver", retry=RETRY)
def charge_on_driver(
    db: psycopg.Connection[Any], job: Job, key: str, work_s: float, trouble: str, until: int
) -> None:
    fail_if(trouble, "before", job, until)
    db.execute(INSERT, list(row(job).values()))
    if trouble == "swallow" and job.attempt <= until:
        with suppress(psycopg.Error):
            db.execute(SQL_ERROR)
    time.sleep(work_s)
    fail_if(trouble, "inside", job, until)


@app.task(name="chaos.acharge", retry=RETRY)
async def acharge(job: Job, key: str, work_s: float, trouble: str, until: int) -> None:
    await asyncio.sleep(work_s)
    fail_if(trouble, "before", job, until)
    async with job.commit() as db:
        await db.execute(insert(ledger).values(row(job)))
        await asyncio.sleep(work_s / 4)
        fail_if(trouble, "inside", job, until)


@app.task(name="chaos.acharge_in_session", retry=RETRY)
async def acharge_in_session(
    db: AsyncSession, job: Job, key: str, work_s: float, trouble: str, until: int
) -> None:
    fail_if(trouble, "before", job, until)
    await db.execute(insert(ledger).values(row(job)))
    await asyncio.sleep(work_s)
    fail_if(trouble, "inside", job, until)


@app.task(name="chaos.acharge_on_driver", retry=RETRY)
async def acharge_on_driver(
    db: psycopg.AsyncConnection[Any], job: Job, key: str, work_s: float, trouble: str, until: int
) -> None:
    fail_if(trouble, "before", job, until)
    await db.execute(INSERT, list(row(job).values()))
    await asyncio.sleep(work_s)
    fail_if(trouble, "inside", job, until)


@app.task(name="chaos.notify", retry=RETRY)
def notify(job: Job, key: str, work_s: float, trouble: str, until: int) -> None:
    """No effect in this database: its record is written by the worker's report."""
    time.sleep(work_s)
    fail_if(trouble, "before", job, until)


TASKS = (
    charge,
    charge_in_session,
    charge_on_driver,
    acharge,
    acharge_in_session,
    acharge_on_driver,
    notify,
)

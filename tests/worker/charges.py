"""The app of the worker tests, for worker processes to import and for tests to use in place.

A charge writes one row of `ledger`. What a handler waits for are files: a test makes them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from sqlalchemy import BigInteger, Column, MetaData, Table, Text, insert
from sqlalchemy.orm import Session

from jobq import Job, JobQueue, Retry

BOUND_S = 30.0

metadata = MetaData()
ledger = Table("ledger", metadata, Column("job_id", BigInteger), Column("charged_by", Text))

app = JobQueue()


@app.task(max_attempts=50, retry=Retry(base_s=0.05, cap_s=0.2))
def charge(job: Job) -> None:
    time.sleep(0.005)
    with job.commit() as db:
        db.execute(insert(ledger).values(job_id=job.id, charged_by=str(os.getpid())))


@app.task(max_attempts=50, retry=Retry(base_s=0.05, cap_s=0.2))
def charge_in_session(db: Session, job: Job) -> None:
    db.execute(insert(ledger).values(job_id=job.id, charged_by=str(os.getpid())))


@app.task(retry=Retry(base_s=0.05, cap_s=0.2))
def gated(job: Job, folder: str) -> None:
    """Say that it started; go on when it may; then charge."""
    (Path(folder) / f"started-{job.id}-{job.attempt}").touch()
    wait_for_file(Path(folder) / "go")
    with job.commit() as db:
        db.execute(insert(ledger).values(job_id=job.id, charged_by=str(os.getpid())))


@app.task(retry=Retry(base_s=0.05, cap_s=0.2))
def gated_inside(job: Job, folder: str) -> None:
    """Charge, say so, and commit when it may."""
    with job.commit() as db:
        db.execute(insert(ledger).values(job_id=job.id, charged_by=str(os.getpid())))
        (Path(folder) / f"inside-{job.id}-{job.attempt}").touch()
        wait_for_file(Path(folder) / "go")


@app.task
def never_ends(folder: str) -> None:
    (Path(folder) / "never-ends").touch()
    while True:
        time.sleep(1)


@app.task(max_attempts=3, retry=Retry(base_s=0.05, cap_s=0.1))
def kill_own_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_file(path: Path) -> None:
    deadline_s = time.monotonic() + BOUND_S
    while not path.exists():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"waited {BOUND_S:g} s for {path.name}")
        threading.Event().wait(0.01)  # libfaketime knows no time.sleep() of Python's


def _call(job: Job, folder: str) -> str:
    """A call to the outside: one line for each time that it is made; it returns when it may."""
    with (Path(folder) / "calls").open("a") as calls:
        calls.write(f"{job.attempt}\n")
    wait_for_file(Path(folder) / "go")
    return f"receipt {job.attempt}"


@app.task(retry=Retry(base_s=0.05, cap_s=0.2))
def charge_by_step(job: Job, folder: str) -> None:
    """Call the outside as a step, say so, and commit when it may."""
    called = job.step("call", _call, job, folder)
    (Path(folder) / f"stepped-{job.attempt}").touch()
    wait_for_file(Path(folder) / "commit")
    with job.commit() as db:
        db.execute(insert(ledger).values(job_id=job.id, charged_by=called))


@app.task(outside_effects="at_most_once", retry=Retry(base_s=0.05, cap_s=0.2))
def call_at_most_once(job: Job, folder: str) -> None:
    _call(job, folder)


@app.task(outside_effects="ask", retry=Retry(base_s=0.05, cap_s=0.2))
def call_and_ask(job: Job, folder: str) -> None:
    _call(job, folder)

"""Tasks that run in processes of their own, at the top level of a module, as they have to be."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from sqlalchemy import Connection, insert

from jobq import Job, JobQueue, JobRequest, Middleware
from tests.worker.charges import ledger

app = JobQueue()
WAIT_S = 60.0
mark_of: ContextVar[str] = ContextVar("mark_of", default="")


class Marks(Middleware):
    def enqueue(self, request: JobRequest, headers: dict[str, str]) -> None:
        headers["mark"] = "from the header"

    @contextmanager
    def attempt(self, job: Job) -> Iterator[None]:
        token = mark_of.set(job.headers["mark"])
        try:
            yield
        finally:
            mark_of.reset(token)


app.use(Marks())


@app.task(process=True)
def marked() -> str:
    return mark_of.get()


@app.task(process=True)
def square(n: int) -> int:
    return n * n


@app.task(process=True)
def pid() -> int:
    return os.getpid()


@app.task(process=True)
def charge(db: Connection, job: Job) -> None:
    db.execute(insert(ledger).values(job_id=job.id, charged_by=str(os.getpid())))


@app.task(process=True, max_attempts=2)
def fail() -> None:
    raise ValueError("in a child")


@app.task(process=True)
def die_once(db: Connection, job: Job, mark: str) -> None:
    """Inside its effect."""
    db.execute(insert(ledger).values(job_id=job.id, charged_by=str(job.attempt)))
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(process=True, memory_mb=64, max_attempts=1)
def eat(mebibytes: int) -> int:
    return len(bytearray(mebibytes * 2**20))


@app.task(process=True)
def spin(job: Job, mark: str) -> None:
    job.progress(0.5, "spinning")
    Path(mark).write_text(str(os.getpid()))
    time.sleep(WAIT_S)

"""Enqueuers and cancellers: `python -m tests.chaos.clients enqueue|cancel SEED`, until SIGTERM.

They try nothing twice: an answer that was lost stays unknown, and the checker takes either.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import signal
import sys
import time
from collections.abc import Callable

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from jobq.errors import JobNotFound, JobqError
from jobq.protocol.values import JobRequest
from jobq.task import JobHandle
from tests.chaos.app import TASKS, app, history
from tests.chaos.history import Answer, Op

MAX_BACKLOG = 150
"""Enqueuers hold back above this many open jobs, so that what faults leave behind can drain."""
BACKLOG = """
SELECT (SELECT count(*) FROM jobq.ready) + (SELECT count(*) FROM jobq.scheduled)
     + (SELECT count(*) FROM jobq.leases)
"""
RECENT = "SELECT id FROM jobq.jobs ORDER BY id DESC LIMIT 100"

TROUBLES = ("", "", "", "", "before", "inside", "swallow", "deaf")


class Client:
    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._engine = create_engine(app.url, poolclass=NullPool)
        self._runner = asyncio.Runner()
        self._prefix = secrets.token_hex(6)  # the next process draws from the same seed
        self._jobs = 0
        self._is_stopping = False

    def run(self, role: str) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        act = {"enqueue": self._enqueue, "cancel": self._cancel}[role]
        while not self._is_stopping:
            try:
                act()
            except (JobqError, SQLAlchemyError) as error:
                logging.warning("%s: %s", role, error)
                time.sleep(0.1)
        self._runner.run(app.aclose())

    def _stop(self) -> None:
        self._is_stopping = True

    # -- enqueueing

    def _enqueue(self) -> None:
        with self._engine.connect() as connection:
            if connection.execute(text(BACKLOG)).scalar_one() > MAX_BACKLOG:
                time.sleep(0.05)
                return
        way = self._draw.choice([self._one, self._bulk, self._later, self._in_transaction])
        way()
        time.sleep(self._draw.uniform(0, 0.05))

    def _one(self) -> None:
        (request,) = self._requests(1)
        self._told(lambda: app.enqueue_many([request]))

    def _bulk(self) -> None:
        requests = self._requests(self._draw.randint(2, 30))
        self._told(lambda: app.enqueue_many(requests))

    def _later(self) -> None:
        requests = self._requests(self._draw.randint(1, 3), delay_s=self._draw.uniform(0.1, 2))
        self._told(lambda: self._runner.run(app.aenqueue_many(requests)))

    def _in_transaction(self) -> None:
        requests = self._requests(self._draw.randint(1, 5))
        keys = list(self._keys)
        history.write(Op.ENQUEUE, keys=keys)
        wants_it = self._draw.random() < 0.6
        try:
            with Session(self._engine) as session:
                handles = app.enqueue_many_in(session, requests)
                if not wants_it:
                    session.rollback()
                    history.write(Op.ENQUEUE, Answer.FAILED, keys=keys)
                    return
                session.commit()
        except (JobqError, SQLAlchemyError) as error:
            # Before its COMMIT nothing can be there; who asked for no COMMIT need not wonder.
            answer = Answer.UNKNOWN if wants_it else Answer.FAILED
            history.write(Op.ENQUEUE, answer, keys=keys, note=str(error)[:200])
            raise
        jobs = [handle.id for handle in handles]
        history.write(Op.ENQUEUE, Answer.ACKNOWLEDGED, keys=keys, jobs=jobs)

    def _requests(self, count: int, *, delay_s: float = 0.0) -> list[JobRequest]:
        self._keys = [f"{self._prefix}-{self._jobs + n}" for n in range(count)]
        self._jobs += count
        draw = self._draw
        return [
            draw.choice(TASKS)
            .using(max_attempts=draw.choice([1, 2, 3, 10]), delay=delay_s)
            .request(
                key=key,
                work_s=round(draw.choice([0.005, 0.02, 0.1, 0.4]) * draw.random(), 4),
                trouble=draw.choice(TROUBLES),
                until=draw.randint(1, 3),
            )
            for key in self._keys
        ]

    def _told(self, enqueue: Callable[[], list[JobHandle]]) -> None:
        keys = list(self._keys)
        history.write(Op.ENQUEUE, keys=keys)
        try:
            handles = enqueue()
        except JobqError as error:
            history.write(Op.ENQUEUE, Answer.UNKNOWN, keys=keys, note=str(error)[:200])
            raise
        jobs = [handle.id for handle in handles]
        history.write(Op.ENQUEUE, Answer.ACKNOWLEDGED, keys=keys, jobs=jobs)

    # -- cancelling

    def _cancel(self) -> None:
        time.sleep(self._draw.uniform(0.05, 0.3))
        with self._engine.connect() as connection:
            recent = list(connection.scalars(text(RECENT)))
        if not recent:
            return
        job = self._draw.choice(recent)
        history.write(Op.CANCEL, job=job)
        try:
            was_open = app.cancel(job)
        except JobNotFound:
            history.write(Op.CANCEL, Answer.FAILED, job=job)
        except JobqError as error:
            history.write(Op.CANCEL, Answer.UNKNOWN, job=job, note=str(error)[:200])
            raise
        else:
            history.write(Op.CANCEL, Answer.TRUE if was_open else Answer.FALSE, job=job)


if __name__ == "__main__":
    Client(int(sys.argv[2])).run(sys.argv[1])

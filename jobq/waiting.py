"""Waiting for jobs to end: one poll for all who wait in a process, however many they are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from jobq.database.base import Database
from jobq.errors import DatabaseUnavailable, JobInNoPlace, JobNotFound
from jobq.protocol.values import Ended
from jobq.store.ended import ended_jobs

logger = logging.getLogger("jobq")

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.5
JOBS_PER_QUERY = 1_000


class EndWatcher:
    """A thread that asks about all the jobs that are waited for, in one query, while there are any.

    After each new one it asks soon, and then ever more rarely, up to `LONGEST_PAUSE_S`: so a
    thousand who wait cost the database what one does. (To notify instead would put a lock of the
    whole server on every job's commit.)
    """

    def __init__(self, database: Callable[[], Database]) -> None:
        self._database = database
        self._waiting: dict[int, list[Future[Ended]]] = {}
        self._lock = threading.Lock()
        self._is_new = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, job_id: int) -> Future[Ended]:
        """Return a future of the job's end. It fails with JobNotFound when there is no such job,
        or it is pruned; with JobInNoPlace when it can never end. Whoever stops waiting cancels
        it."""
        future: Future[Ended] = Future()
        with self._lock:
            self._waiting.setdefault(job_id, []).append(future)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="jobq-wait", daemon=True)
                self._thread.start()
        self._is_new.set()
        return future

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            if self._is_new.wait(pause_s):
                self._is_new.clear()
                pause_s = FIRST_PAUSE_S / 2
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            with self._lock:
                self._forget_those_who_left()
                job_ids = list(self._waiting)
                if not job_ids:
                    self._thread = None
                    return
            try:
                self._look(job_ids)
                if pause_s == LONGEST_PAUSE_S:
                    self._check_one()
            except DatabaseUnavailable as error:
                logger.warning(
                    "waiting for jobs, and for the database: %s",
                    error,
                    extra={"count": len(job_ids), "error_message": str(error)},
                )
                pause_s = LONGEST_PAUSE_S
            except Exception as error:  # noqa: BLE001 - whoever waits is told
                for job_id in job_ids:
                    self._answer(job_id, error)

    def _forget_those_who_left(self) -> None:
        for job_id, futures in list(self._waiting.items()):
            futures[:] = [future for future in futures if not future.cancelled()]
            if not futures:
                del self._waiting[job_id]

    def _look(self, job_ids: list[int]) -> None:
        database = self._database()
        for first in range(0, len(job_ids), JOBS_PER_QUERY):
            asked = job_ids[first : first + JOBS_PER_QUERY]
            found = database.run(ended_jobs(database.store.portable, asked))
            for job_id in asked:
                if job_id not in found:
                    self._answer(job_id, JobNotFound(f"there is no job {job_id} in this database"))
                elif (ended := found[job_id]) is not None:
                    self._answer(job_id, ended)

    def _check_one(self) -> None:
        """Whether the job is anywhere at all: one of them a time, each in its turn."""
        with self._lock:
            job_id = next(iter(self._waiting), None)
            if job_id is None:
                return
            self._waiting[job_id] = self._waiting.pop(job_id)  # to the end of the line
        database = self._database()
        try:
            database.run(database.store.job_without_contents(job_id))
        except JobInNoPlace as error:
            self._answer(job_id, error)

    def _answer(self, job_id: int, answer: Ended | Exception) -> None:
        with self._lock:
            futures = self._waiting.pop(job_id, [])
        for future in futures:
            if not future.set_running_or_notify_cancel():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

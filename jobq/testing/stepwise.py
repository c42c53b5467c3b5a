"""A worker's part, played in the caller's process one attempt at a time.

The steps, the attempts and the reports are those of a worker. What is left out is its loop: nothing
here waits, beats or runs beside anything else, so that a test knows what has happened when.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from jobq.client import JobQueue
from jobq.commit import Relay
from jobq.database.base import Database
from jobq.protocol.budget import RetryBudget
from jobq.protocol.states import AttemptEnd
from jobq.protocol.values import ClaimedJob, FailedAttempt, JobStatus, LeasedAttempt, RefusedReport
from jobq.store.base import NOTHING, RetryDelay, Store
from jobq.store.deadlines import bury_late
from jobq.store.flow import sweep
from jobq.store.limits import LimitedClaim, claim_limited, declare
from jobq.store.step import Step
from jobq.task import Task
from jobq.worker import event_loop
from jobq.worker.attempt import Attempt
from jobq.worker.batch import Batch
from jobq.worker.reports import Report, Reports, as_reports
from jobq.worker.worker import PROMOTE_LIMIT, RECONCILE_LIMIT, check_tasks
from jobq.worker.workload import Unit

T = TypeVar("T")

LEASE_S = 3600.0
"""Nobody sends heartbeats: longer than any test."""


class WorkerKilled(BaseException):
    """Where a simulated kill takes the worker out of its handler. Not an `Exception`: nothing of
    the handler is to go on."""


class ObservedAttempt(Attempt):
    """An attempt that keeps what its handler raised."""

    raised: BaseException | None = None

    def _failure(self, error: BaseException) -> FailedAttempt:
        report = super()._failure(error)
        if report.end is AttemptEnd.FAILED:  # and not snoozed
            self.raised = error
        return report


Playing = Generator[ObservedAttempt, Report | Reports, T]
"""What is to happen, without running handlers: it yields attempts, and is sent their reports. So
blocking tests and those on an event loop share one definition of it."""


class StepwiseWorker:
    """Claims, runs and reports as told. Raises as a worker does when it cannot start."""

    def __init__(self, app: JobQueue) -> None:
        self.tasks = {stored: task for task in app.tasks.values() for stored in task.stored_names}
        app.database  # noqa: B018 - checks that it is there and migrated
        self.database = app.open_database(max_connections=4)
        self._id = f"jobq.testing:{secrets.token_hex(4)}"
        self._budgets: dict[str, RetryBudget] = {}
        check_tasks(self.tasks, self.database)
        limits = {limit for task in self.tasks.values() for limit in task.limits}
        if limits:
            self.database.run(declare(self.store.portable, list(limits)))

    @property
    def store(self) -> Store:
        return self.database.store

    def close(self) -> None:
        self.database.close()

    async def aclose(self) -> None:
        await self.database.aclose()
        self.close()

    # -- the steps

    def claim(self, queues: Sequence[str] | None = None) -> ClaimedJob | None:
        """Lease the next due job of these queues, None if there is none."""
        claimed = self.database.run(self._claim(queues))
        return claimed[0] if claimed else None

    def _claim(self, queues: Sequence[str] | None) -> Step[list[ClaimedJob]]:
        yield from self._promote()
        ready = yield from self.store.ready_queues()
        served = [queue for queue in ready if queues is None or queue in queues]
        claimed = yield from self.store.claim(
            worker=self._id, queues=served, tasks=list(self.tasks), limit=1, lease_s=LEASE_S
        )
        if claimed:
            return claimed
        limited = [name for name, task in self.tasks.items() if task.limits]
        after = ""
        while limited:
            claim = LimitedClaim(self._id, queues, limited, 1, LEASE_S, after)
            found = yield from claim_limited(self.store.portable, claim)
            if found.claimed or not found.after:
                return found.claimed
            after = found.after
        return []

    def _promote(self) -> Step[None]:
        while (yield from sweep(self.store.portable, 0))[0]:
            pass  # a cancelled job may cancel others
        while (yield from bury_late(self.store.portable)):
            pass
        yield from self.store.promote(PROMOTE_LIMIT)

    def claim_this(self, job_id: int, queue: str, task: str) -> ClaimedJob | None:
        """Lease this very job, None unless it is due."""
        return self.database.run(self._claim_this(job_id, queue, task))

    def _claim_this(self, job_id: int, queue: str, task: str) -> Step[ClaimedJob | None]:
        yield from self._promote()
        claimed = yield from self.store.claim(
            worker=self._id, queues=[queue], tasks=[task], limit=PROMOTE_LIMIT, lease_s=LEASE_S
        )
        others = [one.lease for one in claimed if one.lease.job_id != job_id]
        yield from self.store.release(others)
        return next((one for one in claimed if one.lease.job_id == job_id), None)

    def reconcile(self, retry_delay: RetryDelay | None = None) -> None:
        """Recover expired leases, with the delays of a worker's unless others are given."""
        delay = retry_delay or self._retry_delay_s
        while self.database.run(self.store.reconcile(RECONCILE_LIMIT, delay)).total:
            pass

    def _retry_delay_s(self, attempt: LeasedAttempt) -> float:
        task = self.tasks.get(attempt.task)
        return task.retry.delay_s(attempt.attempt, random.random()) if task else 0.0  # noqa: S311

    def attempt(
        self,
        claimed: ClaimedJob,
        *,
        task: Task[..., Any] | None = None,
        database: Database | None = None,
    ) -> ObservedAttempt:
        """An attempt at a claimed job; at `task`, on connections of `database`, if given."""
        task = task or self.tasks[claimed.task]
        budget = self._budgets.setdefault(task.name, RetryBudget(task.retry))
        return ObservedAttempt(claimed, task, database or self.database, budget, worker=self._id)

    def release(self, claimed: ClaimedJob) -> None:
        self.database.run(self.store.release([claimed.lease]))

    def tell(self, report: Report | Reports) -> tuple[RefusedReport, ...]:
        """Hand in a report; return it if it was refused."""
        refused: tuple[RefusedReport, ...] = ()
        reports = as_reports(report)
        while len(reports):
            exchanged = self.database.run(reports.exchange(self.store, NOTHING))
            step = reports.explain(self.store, self._id, exchanged.unrecorded)
            sent = self.database.run(step)
            refused += sent.refused
            reports = sent.again
        return refused

    def status(self, job_id: int) -> JobStatus:
        status = self.database.run(self.store.job(job_id))
        assert status is not None, f"job {job_id} was deleted while it ran"
        return status

    # -- running handlers

    def play(self, playing: Playing[T]) -> T:
        """Blocks. Plain handlers run in this thread, coroutines on an event loop of their own."""
        try:
            attempt = next(playing)
            while True:
                report = self._run_here(attempt)
                _pass_on(attempt)
                attempt = playing.send(report)
        except StopIteration as end:
            result: T = end.value
            return result

    async def aplay(self, playing: Playing[T]) -> T:
        """Coroutines run on this event loop, plain handlers in threads."""
        try:
            attempt = next(playing)
            while True:
                if attempt.is_async:
                    report = await _unit(attempt).run(_alone())
                else:
                    report = await asyncio.to_thread(_unit(attempt).run_in_thread, _alone())
                _pass_on(attempt)
                attempt = playing.send(report)
        except StopIteration as end:
            result: T = end.value
            return result

    def _run_here(self, attempt: ObservedAttempt) -> Report | Reports:
        if not attempt.is_async:
            return _unit(attempt).run_in_thread(_alone())
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return event_loop.run(self._run_and_close(attempt))
        with ThreadPoolExecutor(1, thread_name_prefix="jobq-testing") as aside:
            return aside.submit(event_loop.run, self._run_and_close(attempt)).result()

    async def _run_and_close(self, attempt: ObservedAttempt) -> Report | Reports:
        try:
            return await _unit(attempt).run(_alone())
        finally:
            await self.database.aclose()


def _unit(attempt: ObservedAttempt) -> Unit:
    """A batch's handler is given a batch of one."""
    return Batch([attempt]) if attempt.task.batch_size else attempt


def _alone() -> Relay:
    """No effect follows on the same connection."""
    return Relay(lambda lease, kind: None)


def _pass_on(attempt: ObservedAttempt) -> None:
    """What ends a test (Ctrl-C, a timeout, a cancelled task) is no failure of the handler's."""
    if not isinstance(attempt.raised, Exception | SystemExit | WorkerKilled | None):
        raise attempt.raised

"""A job of yours, interrupted where it hurts.

A kill is an attempt whose transaction is rolled back and that never reports, on real transactions;
a handler that was frozen is one that goes on after another attempt has overtaken it. The rest is
done by the reconciler and by further attempts, as it would be.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing, closing
from copy import copy
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, TypeVar

from jobq.client import JobQueue
from jobq.database.base import AsyncEffect, Database, Effect, Link
from jobq.errors import InvalidTask
from jobq.protocol.states import AttemptEnd
from jobq.protocol.values import (
    ClaimedJob,
    EndedAttempt,
    FailedAttempt,
    JobRequest,
    JobStatus,
    Recorded,
)
from jobq.store.elapsed import expire
from jobq.store.step import Step
from jobq.task import JobHandle, Task
from jobq.testing.cuts import Interruption
from jobq.testing.stepwise import ObservedAttempt, Playing, StepwiseWorker, WorkerKilled
from jobq.worker.worker import PROMOTE_LIMIT

T = TypeVar("T")
C = TypeVar("C")

MOST_SNOOZES = 100


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A job that was interrupted, and what became of it."""

    job: JobHandle
    at: Interruption
    status: JobStatus
    attempts: list[EndedAttempt]
    """Its history: `expired` for a kill, `healed` for one after the commit."""
    handler_runs: int
    """How often its handler was called."""
    was_refused: bool
    """Whether an attempt came too late, and was held off: so in `OVERTAKEN`."""


def interrupt(app: JobQueue, request: JobRequest, at: Interruption) -> Interrupted:
    """Enqueue a job, interrupt its first attempt, and have it recovered and run to its end. Blocks.

        for order_id, at in enumerate(Interruption):
            interrupt(app, charge.request(order_id=order_id), at)
            assert charges_of(order_id) == 1

    The job is a new one and due at once, whatever `request` says of delays, limits and uniqueness.
    Jobs that wait already are left alone. Handlers run as in `drain`.

    A kill is played by raising WorkerKilled, which is no `Exception`, out of the boundary. So
    `finally` blocks of the handler run, as they would not in a process that dies.

    Raises what the handler raises, InvalidTask when the app does not have its task, AssertionError
    when it does nothing but snooze.
    """
    with closing(StepwiseWorker(app)) as worker:
        return worker.play(_Play(app, worker, request, at).whole())


async def ainterrupt(app: JobQueue, request: JobRequest, at: Interruption) -> Interrupted:
    """`interrupt` on the running event loop; plain handlers run in threads."""
    async with aclosing(StepwiseWorker(app)) as worker:
        return await worker.aplay(_Play(app, worker, request, at).whole())


class _Play:
    """One job with its attempts."""

    def __init__(
        self, app: JobQueue, worker: StepwiseWorker, request: JobRequest, at: Interruption
    ) -> None:
        known = worker.tasks.get(request.task)
        if known is None:
            raise InvalidTask(
                f"this app has no task {request.task!r}: interrupt jobs of its own tasks"
            )
        self._worker = worker
        self._at = at
        # Its line and its key would make it wait for other jobs, or be one of them.
        due = request._replace(run_at=None, delay_s=0.0, line=None, unique=None)
        (self._job,) = app.enqueue_many([due])
        self._request = due
        self._task = self._counting(known)
        self._runs = 0
        self._snoozes = 0
        self._was_refused = False
        self._cut: _Cut | None = None
        """That of the attempt under way."""

    def whole(self) -> Playing[Interrupted]:
        while not (yield from self._first()):
            pass
        yield from self._recovered()
        status = self._worker.status(self._job.id)
        attempts = self._worker.database.run(self._worker.store.attempts(self._job.id))
        return Interrupted(self._job, self._at, status, attempts, self._runs, self._was_refused)

    def _first(self) -> Playing[bool]:
        """An attempt that is to be interrupted; return whether it came to that."""
        claimed = self._claim()
        assert claimed is not None, (
            f"job {self._job.id} cannot be claimed: a worker runs beside the test and has it, or "
            f"{PROMOTE_LIMIT} jobs wait before it"
        )
        cut = self._cut = _Cut(self._at, self._worker, lambda: self._overtaking(claimed))
        attempt = self._worker.attempt(claimed, task=self._task, database=_CutDatabase(cut))
        report = yield attempt
        self._cut = None
        if cut.is_dead:
            self._expire(claimed)
            return True
        _raise_failure(attempt)
        if isinstance(report, FailedAttempt):
            self._snooze(report)
            return False
        # It is over, and has opened no boundary if it was not cut.
        if not cut.is_reached and self._at is Interruption.OVERTAKEN:
            yield from self._overtaking(claimed)
        if cut.is_reached or self._at in (Interruption.OVERTAKEN, Interruption.AFTER_COMMIT):
            self._was_refused = bool(self._worker.tell(report))
        else:
            self._expire(claimed)
        return True

    def _overtaking(self, claimed: ClaimedJob) -> Playing[None]:
        self._expire(claimed)
        yield from self._recovered()

    def _recovered(self) -> Playing[None]:
        """What follows without the first worker: recovery, and attempts to the job's end."""
        self._worker.reconcile(lambda _: 0.0)
        while (claimed := self._claim()) is not None:
            attempt = self._worker.attempt(claimed, task=self._task)
            report = yield attempt
            _raise_failure(attempt)
            if isinstance(report, FailedAttempt):
                self._snooze(report)
            else:
                self._worker.tell(report)

    def _snooze(self, report: FailedAttempt) -> None:
        assert report.end is AttemptEnd.SNOOZED
        self._snoozes += 1
        if self._snoozes > MOST_SNOOZES:
            raise AssertionError(
                f"job {self._job.id} was snoozed {MOST_SNOOZES} times and never came to its "
                "effect: let what it waits for be so"
            )
        self._worker.tell(replace(report, retry_delay_s=0.0))

    def _claim(self) -> ClaimedJob | None:
        return self._worker.claim_this(self._job.id, self._request.queue, self._request.task)

    def _expire(self, claimed: ClaimedJob) -> None:
        worker = self._worker
        worker.database.run(expire(worker.store.portable, claimed.lease))

    def _counting(self, task: Task[..., Any]) -> Task[..., Any]:
        """The task with a handler that is counted, and killed before it begins when that is the
        last moment before what it does."""
        handler = task.handler
        opens_nothing = handler.injected == ()

        @wraps(handler.function)
        def function(*args: object, **kwargs: object) -> object:
            if self._cut is not None and opens_nothing:
                self._cut.begins()
            self._runs += 1
            return handler.function(*args, **kwargs)

        counting = copy(task)
        counting.handler = replace(handler, function=function)
        return counting


def _raise_failure(attempt: ObservedAttempt) -> None:
    if attempt.raised is not None:
        raise attempt.raised


class _Cut:
    """What happens to one attempt, at which of its moments."""

    def __init__(
        self, at: Interruption, worker: StepwiseWorker, overtaking: Callable[[], Playing[None]]
    ) -> None:
        self.worker = worker
        self._at = at
        self._overtaking = overtaking
        self.is_reached = False
        self.is_dead = False

    def begins(self) -> None:
        self._kill_at(Interruption.BEFORE_EFFECT)

    def ends(self) -> None:
        self._kill_at(Interruption.INSIDE_EFFECT)

    def committed(self) -> None:
        self._kill_at(Interruption.AFTER_COMMIT)

    def overtaking(self) -> Playing[None]:
        """What others do before this attempt may begin its effect."""
        if self._at is Interruption.OVERTAKEN and not self.is_reached:
            self.is_reached = True
            yield from self._overtaking()

    def _kill_at(self, at: Interruption) -> None:
        if self._at is at:
            self.is_reached = self.is_dead = True
        self.check()

    def check(self) -> None:
        """The dead do nothing more, whatever their handler makes of it."""
        if self.is_dead:
            raise WorkerKilled(f"simulated: {self._at.value.replace('_', ' ')}")


class _CutDatabase(Database):
    """The connections of an attempt that is to be interrupted."""

    def __init__(self, cut: _Cut) -> None:
        self._cut = cut
        self._database = cut.worker.database
        self.store = self._database.store
        self.url = self._database.url
        self.max_connections = self._database.max_connections

    def run(self, step: Step[T]) -> T:
        self._cut.check()
        return self._database.run(step)

    async def run_async(self, step: Step[T]) -> T:
        self._cut.check()
        return await self._database.run_async(step)

    def link(self, *, listens: bool = False) -> Link:
        self._cut.check()
        return self._database.link(listens=listens)

    def supports(self, kind: type[Any]) -> bool:
        return self._database.supports(kind)

    def begin_effect(self, kind: type[C]) -> Effect[C]:
        self._cut.begins()
        self._cut.worker.play(self._cut.overtaking())
        return _CutEffect(self._cut, self._database.begin_effect(kind))

    async def begin_effect_async(self, kind: type[C]) -> AsyncEffect[C]:
        self._cut.begins()
        await self._cut.worker.aplay(self._cut.overtaking())
        return _AsyncCutEffect(self._cut, await self._database.begin_effect_async(kind))

    def close(self) -> None:
        self._database.close()

    async def aclose(self) -> None:
        await self._database.aclose()


class _CutEffect(Effect[C]):
    def __init__(self, cut: _Cut, effect: Effect[C]) -> None:
        self._cut = cut
        self._effect = effect
        self.handle = effect.handle

    def run(self, step: Step[T]) -> T:
        return self._effect.run(step)

    def flush(self) -> None:
        self._effect.flush()

    def commit(self, confirm: Step[bool], then: Step[Recorded] | None = None) -> None:
        self._cut.ends()
        self._effect.commit(confirm, then)
        self._cut.committed()

    @property
    def has_begun(self) -> bool:
        return self._effect.has_begun

    def close(self) -> None:
        self._effect.close()

    @property
    def is_broken(self) -> bool:
        return self._effect.is_broken


class _AsyncCutEffect(AsyncEffect[C]):
    def __init__(self, cut: _Cut, effect: AsyncEffect[C]) -> None:
        self._cut = cut
        self._effect = effect
        self.handle = effect.handle

    async def run(self, step: Step[T]) -> T:
        return await self._effect.run(step)

    async def flush(self) -> None:
        await self._effect.flush()

    async def commit(self, confirm: Step[bool], then: Step[Recorded] | None = None) -> None:
        self._cut.ends()
        await self._effect.commit(confirm, then)
        self._cut.committed()

    @property
    def has_begun(self) -> bool:
        return self._effect.has_begun

    async def close(self) -> None:
        await self._effect.close()

    @property
    def is_broken(self) -> bool:
        return self._effect.is_broken

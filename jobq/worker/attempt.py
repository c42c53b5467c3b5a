"""One attempt: from a claimed job to a report of what became of it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

from jobq.commit import Relay, commit_effect_idempotent, commit_effect_idempotent_async
from jobq.database.base import Database
from jobq.errors import AlreadyCommitted, Refusal
from jobq.handler import Handler
from jobq.job import Bury, Fate, Job, Snooze
from jobq.logs import FieldLogger, log_of_attempt
from jobq.middleware import AttemptOutcome, AttemptResult, EffectEvent, surrounding, tell
from jobq.outside import Outside
from jobq.protocol.budget import RetryBudget
from jobq.protocol.failure import describe_error
from jobq.protocol.outside import OutsideEffects
from jobq.protocol.progress import Told
from jobq.protocol.retry import On
from jobq.protocol.states import AttemptEnd, Outcome, Stage
from jobq.protocol.values import (
    AttemptError,
    ClaimedJob,
    FailedAttempt,
    Lease,
    Record,
    RefusedReport,
)
from jobq.task import Task
from jobq.worker.processes import HandlerProcesses, death_of
from jobq.worker.reports import Committed, Report, Returned

logger = logging.getLogger("jobq.worker")

STOPPED = AttemptError(
    "jobq.WorkerStopped", "the worker was stopped before the handler was done", ""
)


class Attempt:
    """A claimed job in the hands of its handler."""

    size = 1
    """In jobs, as a batch has more."""

    def __init__(
        self,
        claimed: ClaimedJob,
        task: Task[..., Any],
        database: Database,
        budget: RetryBudget,
        report_progress: Callable[[Lease, Told], None] | None = None,
        processes: HandlerProcesses | None = None,
        *,
        worker: str,
        is_child: bool = False,
    ) -> None:
        self.claimed = claimed
        self.worker = worker
        self.fate = Fate()
        self.job = Job(
            claimed, database, self.fate, task.results, report_progress, task.app.encryption
        )
        self.task = task
        self.database = database
        self._budget = budget
        self._running: asyncio.Task[Any] | None = None
        self._was_cancelled = False
        self._processes = processes
        self._in_child: Future[Report] | None = None
        self._middleware = task.app.middleware
        if self._middleware:
            self.fate.on_effect = self._tell_of_effect
        self._began_s = 0.0
        self._was_interrupted = False
        self._is_told = is_child  # its worker tells

    @property
    def lease(self) -> Lease:
        return self.claimed.lease

    @property
    def log(self) -> FieldLogger:
        """For what there is to say of it."""
        return log_of_attempt(logger, self.claimed, self.worker)

    @property
    def is_async(self) -> bool:
        return self.task.handler.is_async

    @property
    def leases(self) -> list[Lease]:
        return [self.lease]

    @property
    def name(self) -> str:
        return f"{self.claimed.task} {self.lease.job_id}"

    @property
    def effect_kind(self) -> type[Any] | None:
        """What kind of effect transaction it opens for itself alone."""
        is_alone = not self.task.batch_size and self._processes is None
        return self.task.handler.effect_kind if is_alone else None

    def lose(self) -> None:
        """The lease is gone: cancel an async handler, tell one in a thread."""
        self.fate.is_lease_lost = True
        self._cancel_handler()

    def cancel(self) -> None:
        """The job was cancelled: the same, for another reason."""
        self._was_cancelled = True
        self.lose()

    def interrupt(self) -> Report:
        """The worker stops and waits no longer. Return the report; the handler's is ignored."""
        self._cancel_handler()
        self._was_interrupted = True
        return self._told(self._settled() or self._stopped())

    def _stopped(self) -> FailedAttempt:
        return FailedAttempt(self.lease, AttemptEnd.INTERRUPTED, STOPPED, retry_delay_s=0.0)

    def _cancel_handler(self) -> None:
        if self._running is not None:
            self._running.cancel()
        if self._in_child is not None:
            self._in_child.cancel()

    async def run(self, relay: Relay) -> Report:
        """Run an `async def` handler; return the report, whatever the handler does."""
        self._running = asyncio.current_task()
        self.begin()
        try:
            with surrounding(self._middleware, self.job):
                if self.task.timeout_s is None:
                    await self._run_async(relay)
                else:
                    await self._run_in_time(relay, self.task.timeout_s)
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a handler fails its job
            return self.ended(error)
        return self.ended(None)

    async def _run_in_time(self, relay: Relay, timeout_s: float) -> None:
        self.fate.begin(timeout_s)
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                await self._run_async(relay)
        except TimeoutError:
            if limit.expired():
                raise self.fate.timed_out() from None
            raise

    def run_in_thread(self, relay: Relay) -> Report:
        """Run a `def` handler, here or in a child; return the report, whatever it does."""
        self.begin()
        if self._processes is not None:
            return self._told(self._run_in_child(self._processes))
        if self.task.timeout_s is not None:
            self.fate.begin(self.task.timeout_s)
        try:
            with surrounding(self._middleware, self.job):
                self._run_blocking(relay)
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a handler fails its job
            return self.ended(error)
        return self.ended(None)

    def _run_in_child(self, processes: HandlerProcesses) -> Report:
        """The child's report stands, unless the worker knows better by now."""
        try:
            running: Future[Report] = processes.start(self.claimed, self.task)
            self._in_child = running
            if self.fate.is_lease_lost:
                running.cancel()
            report = running.result()
        except CancelledError as error:
            return self._ended(error)
        except TimeoutError:
            self.fate.begin(self.task.timeout_s)
            return self._ended(self.fate.timed_out())
        except Exception as error:  # noqa: BLE001 - it died, or could not so much as begin
            return self._ended(death_of(error) or error)
        if isinstance(report, Committed):
            self.fate.is_committed = True
        return self._settled() or report

    async def _run_async(self, relay: Relay) -> None:
        handler = self.task.handler
        arguments = self.task.read(self.claimed.task, self.claimed.args)
        if (policy := self.task.outside_effects) is not OutsideEffects.AT_LEAST_ONCE:
            await Outside(self.claimed, self.database, self.fate).begin_async(policy)
        if handler.effect_kind is None:
            self._keep(await handler.function(*handler.leading(self.job, None), **arguments))
            return
        self.fate.is_boundary_open = True
        async with commit_effect_idempotent_async(
            self.database, self.lease, handler.effect_kind, relay, self.fate.at_commit
        ) as effect:
            self.fate.tell(EffectEvent.BEGUN)
            self._keep(await handler.function(*handler.leading(self.job, effect), **arguments))
        self.fate.committed()

    def _run_blocking(self, relay: Relay) -> None:
        handler = self.task.handler
        arguments = self.task.read(self.claimed.task, self.claimed.args)
        if (policy := self.task.outside_effects) is not OutsideEffects.AT_LEAST_ONCE:
            Outside(self.claimed, self.database, self.fate).begin(policy)
        if handler.effect_kind is None:
            self._call(handler.leading(self.job, None), arguments)
            return
        self.fate.is_boundary_open = True
        with commit_effect_idempotent(
            self.database, self.lease, handler.effect_kind, relay, self.fate.at_commit
        ) as effect:
            self.fate.tell(EffectEvent.BEGUN)
            self._call(handler.leading(self.job, effect), arguments)
        self.fate.committed()

    def _call(self, leading: list[object], arguments: dict[str, Any]) -> None:
        returned = self.task.handler.call(self.task.name, *leading, **arguments)
        if returned is not None:
            self._keep(returned)

    def _keep(self, returned: object) -> None:
        if self.task.results is None or returned is None:
            return
        if self.fate.is_committed:
            self.log.warning(
                "job %d (%s) committed before its handler returned a result, which is not kept: "
                "use job.set_result() inside `with job.commit()`",
                self.lease.job_id,
                self.claimed.task,
            )
            return
        self.fate.result = self.task.results.encode(returned)

    def begin(self) -> None:
        """The handler is about to be called."""
        if self._middleware:
            self._began_s = time.monotonic()

    def ended(self, error: BaseException | None) -> Report:
        """The handler returned, or raised this; return the report."""
        report = self._ended(error)
        if self._middleware:
            result = self._result(report)
            tell(self._middleware, lambda each: each.handled(self.job, result))
        return self._told(report)

    def _tell_of_effect(self, event: EffectEvent) -> None:
        tell(self._middleware, lambda each: each.effect(self.job, event))

    def _told(self, report: Report) -> Report:
        """Have the middleware know what is reported, once."""
        if self._middleware and not self._is_told:
            self._is_told = True
            result = self._result(report)
            tell(self._middleware, lambda each: each.attempt_ended(self.job, result))
        return report

    def _result(self, report: Report) -> AttemptResult:
        took_s = time.monotonic() - self._began_s
        if isinstance(report, RefusedReport):
            return AttemptResult(AttemptOutcome.REFUSED, took_s, reason=report.reason)
        if self._was_interrupted and not isinstance(report, Committed):
            report = self._stopped()  # what its handler reports is not heard any more
        if not isinstance(report, FailedAttempt):
            return AttemptResult(AttemptOutcome.COMMITTED, took_s)
        is_dead = report.end is AttemptEnd.FAILED and (
            report.retry_delay_s is None or self.claimed.attempt >= self.claimed.max_attempts
        )
        return AttemptResult(
            AttemptOutcome(report.end.value),
            took_s,
            report.error,
            None if is_dead else report.retry_delay_s,
            is_dead,
        )

    def _ended(self, error: BaseException | None) -> Report:
        if isinstance(error, Refusal):
            self.fate.refused(error)
        elif error is not None and self.fate.is_committed:
            self._warn_of_too_late(error)
        if (settled := self._settled()) is not None:
            return settled
        if error is None and self.task.timeout_s is not None and self.fate.is_over_time:
            error = self.fate.timed_out()
        if error is None:
            self._budget.succeeded(self.claimed.attempt)
            return Returned(self.lease, self.fate.result)
        return self._failure(error)

    def _settled(self) -> Report | None:
        """What the boundary and the worker know outranks what the handler made of it.

        A refusal that the handler swallowed is still a refusal; an error after the commit does
        not undo it.
        """
        if self.fate.is_committed:
            self._budget.succeeded(self.claimed.attempt)
            return Committed(self.lease)
        if self._was_cancelled:
            record = Record(self.lease.token, Outcome.CANCELLED)
            return RefusedReport(self.lease, Stage.HEARTBEAT, record)
        if self.fate.refusal is not None:
            return self._refused(self.fate.refusal, Stage.COMMIT)
        if self.fate.is_lease_lost:
            return RefusedReport(self.lease, Stage.HEARTBEAT, None)
        return None

    def _warn_of_too_late(self, error: BaseException) -> None:
        described = describe_error(error)
        self.log.warning(
            "job %d (%s) committed, and its handler %s",
            self.lease.job_id,
            self.claimed.task,
            "wanted to be snoozed afterwards"
            if isinstance(error, Snooze)
            else f"failed afterwards: {described.type}: {described.message}",
            extra=_about(described),
        )

    def _refused(self, refusal: Refusal, stage: Stage) -> RefusedReport:
        if isinstance(refusal, AlreadyCommitted):
            return RefusedReport(self.lease, stage, Record(refusal.token, refusal.outcome))
        return RefusedReport(self.lease, stage, None)

    def _failure(self, error: BaseException) -> FailedAttempt:
        """Nothing outranks the error: what follows is said by the handler, else by the policy."""
        if isinstance(error, Snooze):
            return self._snoozed(error.delay_s)
        rule = self.task.retry.rule_for(error)
        if rule is not None and (snooze_s := self._snooze_s(rule, error)) is not None:
            return self._snoozed(snooze_s)
        described = describe_error(_from_handler_on(error, self.task.handler))
        self.log.info(
            "job %d (%s) failed in attempt %d of %d: %s: %s",
            self.lease.job_id,
            self.claimed.task,
            self.claimed.attempt,
            self.claimed.max_attempts,
            described.type,
            described.message,
            extra=_about(described),
        )
        delay_s: float | None = None
        if not (isinstance(error, Bury) or (rule is not None and rule.bury)):
            delay_s = self._budget.delay_s(self.claimed.attempt, random.random(), rule)  # noqa: S311
        return FailedAttempt(self.lease, AttemptEnd.FAILED, described, delay_s)

    def _snoozed(self, delay_s: float) -> FailedAttempt:
        return FailedAttempt(self.lease, AttemptEnd.SNOOZED, None, delay_s)

    def _snooze_s(self, rule: On[Any], error: BaseException) -> float | None:
        try:
            return rule.snooze_s(error)
        except Exception:
            self.log.exception(
                "task %r: the rule for %r could not tell for how long to snooze; its attempt "
                "counts as failed",
                self.task.name,
                rule.errors,
            )
            return None


def _about(error: AttemptError) -> dict[str, object]:
    return {"error_type": error.type, "error_message": error.message}


def _from_handler_on(error: BaseException, handler: Handler) -> BaseException:
    """Leave jobq's own frames out of the traceback: it begins where the handler does."""
    code = getattr(inspect.unwrap(handler.function), "__code__", None)
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code is not code:
        frame = frame.tb_next
    return error if frame is None else error.with_traceback(frame)

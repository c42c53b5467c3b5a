"""A job as the `TaskResult` that Django knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings
from django.tasks import TaskResult, TaskResultStatus
from django.tasks.base import TaskError
from django.utils import timezone
from sqlalchemy import select

from jobq.protocol.states import AttemptEnd, Outcome, State
from jobq.protocol.values import EndedAttempt, JobStatus
from jobq.store.base import Store
from jobq.store.portable import now
from jobq.store.step import Step
from jobq.task import Task

if TYPE_CHECKING:
    from django.tasks import Task as DjangoTask

STATUSES: Mapping[State, Any] = {
    State.SCHEDULED: TaskResultStatus.READY,
    State.WAITING: TaskResultStatus.READY,
    State.READY: TaskResultStatus.READY,
    State.THROTTLED: TaskResultStatus.READY,
    State.LEASED: TaskResultStatus.RUNNING,
    State.AMBIGUOUS: TaskResultStatus.RUNNING,
    State.COMMITTED: TaskResultStatus.SUCCESSFUL,
    State.DONE: TaskResultStatus.SUCCESSFUL,
    State.DEAD: TaskResultStatus.FAILED,
    State.CANCELLED: TaskResultStatus.FAILED,
}
NO_ATTEMPT = (AttemptEnd.SNOOZED, AttemptEnd.REVIVED)
ENDED_BY_WORKER = {
    AttemptEnd.EXPIRED: ("jobq.errors.LeaseLost", "the lease expired: its worker was gone"),
    AttemptEnd.INTERRUPTED: ("asyncio.exceptions.CancelledError", "its worker was stopped"),
}
"""What is told as the error of an attempt that its task did not end."""


class Run(NamedTuple):
    """One attempt: who made it, and since when."""

    token: int
    worker: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a job."""

    status: JobStatus
    ended: list[EndedAttempt]
    runs: list[Run]


def clock(store: Store) -> Step[datetime]:
    """The step that asks the database what time it is: the one clock of all that is told."""
    ((moment,),) = yield from store.portable.run(select(now()))
    return as_django(moment)


def facts(store: Store, job_id: int) -> Step[Facts | None]:
    """The step that looks; None when there is no such job."""
    status = yield from store.job(job_id)
    if status is None:
        return None
    ended = yield from store.attempts(job_id)
    runs = {
        one.token: Run(one.token, one.worker, one.started_at)
        for one in ended
        if one.end not in NO_ATTEMPT and one.worker
    }
    portable = store.portable
    for table in (portable.tables.leases, portable.tables.commit_records):
        rows = yield from portable.run(
            select(table.c.token, table.c.worker, table.c.acquired_at).where(
                table.c.shard == portable.shard,
                table.c.job_id == job_id,
                *([table.c.outcome == Outcome.COMMITTED.value] if "outcome" in table.c else []),
            )
        )
        for token, worker, acquired_at in rows:
            if worker and acquired_at:
                runs.setdefault(token, Run(token, worker, acquired_at))
    return Facts(status, ended, sorted(runs.values()))


def result_of(known: Facts, declared: DjangoTask, task: Task[..., Any], alias: str) -> TaskResult:
    """`declared`, `task`: Django's task and jobq's.

    Raises UnreadableArguments, InvalidResult or KeyMissing.
    """
    status = known.status
    arguments = task.read(status.task, status.args)
    result = TaskResult(
        task=replace(declared, queue_name=status.queue, priority=-status.priority),
        id=str(status.id),
        status=STATUSES[status.state],
        enqueued_at=as_django(status.created_at),
        started_at=as_django(known.runs[0].started_at) if known.runs else None,
        last_attempted_at=as_django(known.runs[-1].started_at) if known.runs else None,
        finished_at=None if status.recorded_at is None else as_django(status.recorded_at),
        args=arguments["args"],
        kwargs=arguments["kwargs"],
        backend=alias,
        errors=[error for one in known.ended if (error := _error(one)) is not None],
        worker_ids=[one.worker for one in known.runs],
    )
    if status.result is not None and task.results is not None:
        change(result, _return_value=task.results.decode(status.result))
    return result


def change(result: TaskResult, **values: object) -> None:
    """As Django's own backends do: the class is frozen for its users."""
    for name, value in values.items():
        object.__setattr__(result, name, value)


def as_task_error(kind: str, traceback: str) -> TaskError:
    """`kind`: as jobq stores it, a built-in one without its module."""
    path = kind if "." in kind else f"builtins.{kind}"
    return TaskError(exception_class_path=path, traceback=traceback)


def as_django(moment: datetime) -> datetime:
    """Naive in Django's time zone when USE_TZ is False."""
    return moment if settings.USE_TZ else timezone.make_naive(moment)


def _error(ended: EndedAttempt) -> TaskError | None:
    if ended.end in ENDED_BY_WORKER:
        kind, said = ENDED_BY_WORKER[ended.end]
        return as_task_error(kind, f"{kind}: {said} ({ended.worker})")
    if ended.error is None:
        return None
    return as_task_error(ended.error.type, ended.error.traceback)

"""Attempts at Django's tasks: around each, and the commit boundary on Django's connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import close_old_connections, connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper
from django.tasks import TaskContext, TaskResult, TaskResultStatus
from django.tasks.signals import task_finished, task_started
from django.utils.json import normalize_json

from jobq.django.connection import look_on
from jobq.django.results import as_task_error, change, clock, facts, result_of
from jobq.errors import JobNotFound
from jobq.job import Job
from jobq.middleware import AttemptOutcome, AttemptResult, Middleware

if TYPE_CHECKING:
    from django.tasks import Task as DjangoTask

    from jobq.django.queue import DjangoQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class JobqContext(TaskContext):
    """What a task with `takes_context=True` receives on this backend."""

    job: Job
    """The attempt, as jobq knows it: `idempotency_key`, `progress()`, `must_stop`, ..."""
    database: str
    """The alias of the backend's database."""

    @contextmanager
    def commit(self) -> Iterator[None]:
        """Open the commit boundary, in a task whose options say `COMMITS_ITSELF`.

            with context.commit():
                Charge.objects.create(...)

        The block is a transaction on Django's connection, and the job's commit record is in it. In
        other tasks it is open from the beginning, and this raises InvalidTask.
        """
        with _committing(self.job, self.database):
            yield


class Attempts(Middleware):
    """Sees to connections as Django's requests do, and sends Django's signals."""

    def __init__(self, sender: type[Any], queue: DjangoQueue) -> None:
        self._sender = sender
        self._queue = queue
        self._running: dict[tuple[int, int], TaskResult] = {}

    @contextmanager
    def attempt(self, job: Job) -> Iterator[None]:
        reset_queries()
        close_old_connections()
        try:
            yield
        finally:
            close_old_connections()

    def started(self, job: Job, result: TaskResult) -> None:
        self._running[job.id, job.fencing_token] = result
        task_started.send_robust(sender=self._sender, task_result=result)

    def attempt_ended(self, job: Job, result: AttemptResult) -> None:
        """A failed attempt that is followed by another has not finished its task."""
        told = self._running.pop((job.id, job.fencing_token), None)
        is_committed = result.outcome is AttemptOutcome.COMMITTED
        if told is None or not (is_committed or result.is_dead):
            return
        status = TaskResultStatus.SUCCESSFUL if is_committed else TaskResultStatus.FAILED
        finished_at = look_on(self._queue.options.database, clock(self._queue.store))
        change(told, status=status, finished_at=finished_at)
        if result.error is not None:
            told.errors.append(as_task_error(result.error.type, result.error.traceback))
        task_finished.send_robust(sender=self._sender, task_result=told)
        close_old_connections()


def handler_of(queue: DjangoQueue, declared: DjangoTask, around: Attempts) -> Callable[..., Any]:
    """Return the handler of a Django task. It is a plain `def`, for async tasks too: Django runs
    their coroutine so that the ORM they call works in this very thread, on its connection."""
    alias = queue.options.database
    commits_itself = queue.options.commits_itself(declared.module_path)

    def run(job: Job, args: list[Any], kwargs: dict[str, Any]) -> Any:
        known = look_on(alias, facts(queue.store, job.id))
        if known is None:
            raise JobNotFound(f"job {job.id} was pruned while it was claimed")
        result = result_of(known, declared, queue.registered(declared), queue.alias)
        around.started(job, result)
        if declared.takes_context:
            args = [JobqContext(task_result=result, job=job, database=alias), *args]
        if commits_itself:
            returned = normalize_json(declared.call(*args, **kwargs))
            change(result, _return_value=returned)
            return returned
        with _committing(job, alias):
            returned = normalize_json(declared.call(*args, **kwargs))
            if returned is not None:
                job.set_result(returned)
        change(result, _return_value=returned)
        return None

    return run


@contextmanager
def _committing(job: Job, alias: str) -> Iterator[None]:
    """The boundary, and behind it what was registered with `on_commit`."""
    connection = connections[alias]
    with job.commit(BaseDatabaseWrapper):
        yield
    connection.run_and_clear_commit_hooks()

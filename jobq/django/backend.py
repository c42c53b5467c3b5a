"""`JobqBackend`: what `TASKS` names in Django's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from inspect import signature
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.checks import CheckMessage
from django.tasks import TaskResult, TaskResultStatus
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.exceptions import TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django.utils import timezone

from jobq.django.attempts import Attempts, handler_of
from jobq.django.checks import check_backend
from jobq.django.connection import look_on, run_on
from jobq.django.options import BackendOptions
from jobq.django.queue import DjangoQueue, declare, queue_of
from jobq.django.results import change, clock, facts, result_of
from jobq.protocol.values import JobRequest
from jobq.store.step import Step

if TYPE_CHECKING:
    from django.tasks import Task as DjangoTask


class JobqBackend(BaseTaskBackend):
    """Tasks as jobs in one of Django's databases; see docs/integrations.md."""

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    @property
    def app(self) -> DjangoQueue:
        """The `JobQueue` below: its jobs, queues, dead letters and workers.

        Raises InvalidOption.
        """
        return queue_of(self.alias, self._make_queue)

    def _make_queue(self) -> DjangoQueue:
        queue = DjangoQueue(
            self.alias,
            BackendOptions(self.alias, self.options),
            lambda queue, declared: handler_of(queue, declared, around),
        )
        around = Attempts(type(self), queue)
        queue.use(around)
        return queue

    def validate_task(self, task: DjangoTask) -> None:
        """Django asks for each task that is declared: that is how a worker comes to have it."""
        super().validate_task(task)
        declare(self.alias, task)

    def enqueue(
        self, task: DjangoTask, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TaskResult:
        """Enqueue in the current transaction of the database's connection, or in one of its own.

        Raises TypeError when the arguments do not fit the function, or are not JSON; jobq's
        InvalidArguments for what JSON or the database cannot hold.
        """
        self.validate_task(task)
        result = TaskResult(
            task=task,
            id="",
            status=TaskResultStatus.READY,
            enqueued_at=None,
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        signature(task.func).bind(*([None] if task.takes_context else []), *args, **kwargs)
        request = self._request(task, result)
        job_id, enqueued_at = run_on(self.app.options.database, self._enqueueing(request))
        change(result, id=str(job_id), enqueued_at=enqueued_at)
        task_enqueued.send(type(self), task_result=result)
        return result

    def _request(self, task: DjangoTask, result: TaskResult) -> JobRequest:
        # Django's largest number is first, jobq's smallest.
        options: dict[str, Any] = {"queue": task.queue_name, "priority": -task.priority}
        if task.run_after is not None:
            options["run_at"] = _aware(task.run_after)
        registered = self.app.registered(task)
        return registered.using(**options).request(args=result.args, kwargs=result.kwargs)

    def _enqueueing(self, request: JobRequest) -> Step[tuple[int, datetime]]:
        (handle,) = yield from self.app.enqueueing([request])
        return handle.id, (yield from clock(self.app.store))

    def get_result(self, result_id: str) -> TaskResult:
        """Look in the current transaction of the database's connection.

        Raises TaskResultDoesNotExist for a job that is not there, was pruned, or is of a task
        whose module is not imported here.
        """
        if not (result_id.isascii() and result_id.isdecimal() and len(result_id) < 19):
            raise TaskResultDoesNotExist(result_id)
        app = self.app
        known = look_on(app.options.database, facts(app.store, int(result_id)))
        declared = None if known is None else app.declared.get(known.status.task)
        if known is None or declared is None:
            raise TaskResultDoesNotExist(result_id)
        return result_of(known, declared, app.registered(declared), self.alias)

    def check(self, **kwargs: Any) -> Iterator[CheckMessage]:
        yield from check_backend(self)


def _aware(moment: datetime) -> datetime:
    return moment if settings.USE_TZ else timezone.make_aware(moment)

"""What waits in a queue, and assertions about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jobq.client import JobQueue
from jobq.protocol.states import State
from jobq.protocol.versions import read_stored
from jobq.store.waiting import WaitingJob, waiting_jobs
from jobq.task import Task


@dataclass(frozen=True, slots=True)
class EnqueuedJob:
    """A job that waits to be run: `scheduled`, `ready`, `throttled` or `waiting`."""

    id: int
    task: str
    """The task's name."""
    arguments: Mapping[str, Any]
    """As its handler gets them, those that were left out at their defaults; of a task that the app
    does not have, as JSON has them."""
    state: State
    queue: str
    priority: int
    due_at: datetime | None
    """None when it waits for other jobs."""

    def __str__(self) -> str:
        due = f"due at {self.due_at:%Y-%m-%d %H:%M:%S} UTC" if self.due_at else "after other jobs"
        return (
            f"job {self.id}, {self.state.value}: {_call(self.task, self.arguments)} in queue "
            f"{self.queue!r}, {due}"
        )


def enqueued(app: JobQueue, task: Task[..., Any] | str | None = None) -> list[EnqueuedJob]:
    """Return the jobs that wait, of one task or of all, in the order they were enqueued. Blocks.

    A failed job that waits for its next attempt is among them; a job that another transaction has
    enqueued and not yet committed is not. Raises UnreadableArguments.
    """
    name = task.name if isinstance(task, Task) else task
    database = app.database
    waiting = database.run(waiting_jobs(database.store.portable))
    return [
        _decoded(app, job) for job in waiting if name in (None, job.task, read_stored(job.task)[0])
    ]


def assert_enqueued(app: JobQueue, task: Task[..., Any], /, **arguments: object) -> EnqueuedJob:
    """Return the first job of the task that waits with these arguments; others may be anything.

    Raises AssertionError, which lists what waits, when there is none; InvalidTask when the handler
    has no such argument. Blocks.
    """
    matching = _matching(app, task, arguments)
    if not matching:
        raise AssertionError(
            f"no job waits for {_call(task.name, arguments)}; {_listed(enqueued(app))}"
        )
    return matching[0]


def assert_not_enqueued(app: JobQueue, task: Task[..., Any], /, **arguments: object) -> None:
    """Raise AssertionError when a job of the task waits with these arguments. Blocks.

    Raises InvalidTask when the handler has no such argument.
    """
    matching = _matching(app, task, arguments)
    if matching:
        raise AssertionError(_listed(matching, f" for {_call(task.name, arguments)}"))


def _matching(
    app: JobQueue, task: Task[..., Any], arguments: Mapping[str, object]
) -> list[EnqueuedJob]:
    task.handler.arguments.check_names("an assertion", list(arguments))
    return [
        job
        for job in enqueued(app, task)
        if all(job.arguments[name] == value for name, value in arguments.items())
    ]


def _decoded(app: JobQueue, job: WaitingJob) -> EnqueuedJob:
    known = app.task_of(job.task)
    if known is None:
        arguments = json.loads(job.args)
    else:
        arguments = known.handler.arguments.complete(known.current(job.task, job.args))
    return EnqueuedJob(job.id, job.task, arguments, job.state, job.queue, job.priority, job.due_at)


def _listed(jobs: Sequence[EnqueuedJob], what: str = "") -> str:
    if not jobs:
        return f"no jobs wait{what}"
    counted = "1 job waits" if len(jobs) == 1 else f"{len(jobs)} jobs wait"
    return "\n  ".join([f"{counted}{what}:", *map(str, jobs)])


def _call(task: str, arguments: Mapping[str, object]) -> str:
    return f"{task}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"

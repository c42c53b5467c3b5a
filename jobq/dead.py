"""Dead letters: the jobs whose attempts are spent, and what an operator does with them."""

from __future__ import annotations

import builtins
import json
from typing import TYPE_CHECKING

from jobq.errors import InvalidTask
from jobq.protocol.retry import check_delay
from jobq.protocol.values import DeadFilter, DeadJob
from jobq.store.dead import dead_ids, dead_jobs, revive, withdraw
from jobq.store.step import Step
from jobq.task import JobHandle

if TYPE_CHECKING:
    from jobq.client import JobQueue

JOBS_PER_TRANSACTION = 500


class DeadJobs:
    """The dead jobs of the app's database. They are kept as `Retention` says. Each call blocks."""

    def __init__(self, app: JobQueue) -> None:
        self._app = app

    def list(
        self,
        *,
        task: str | None = None,
        queue: str | None = None,
        error_type: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> builtins.list[DeadJob]:
        """Return up to `limit` of them by their ids, from the one after `after` on.

        `error_type`: of what ended the last attempt, as `DeadJob.error.type` has it. `app.attempts`
        gives a job's whole history.
        """
        wanted = DeadFilter(task, queue, error_type)
        database = self._app.database
        return database.run(dead_jobs(database.store.portable, wanted, after, limit))

    def retry(self, job: DeadJob) -> bool:
        """Have a job that `list` showed run again, soon and with all its attempts.

        It is the same job: its idempotency key, its recorded steps and its history stay, and
        whoever held a lease of its earlier life is still refused. Return False if it was not dead
        any more, or has died again since: then nothing was changed.
        """
        portable = self._app.database.store.portable

        def retry() -> Step[bool]:
            return bool((yield from revive(portable, [job.id], token=job.token)))

        return self._app.act("dead.retry", job.id, retry())

    def retry_all(
        self,
        *,
        task: str | None = None,
        queue: str | None = None,
        error_type: str | None = None,
        spread_s: float = 0.0,
    ) -> int:
        """Have all of them run again, or those that fit; return how many.

        `spread_s`: they are due within so many seconds, evenly drawn, rather than all at once. Each
        500 are a transaction of their own; jobs that die meanwhile may be among them, none twice.
        Raises InvalidOption.
        """
        check_delay(spread_s)
        wanted = DeadFilter(task, queue, error_type)
        database = self._app.database
        portable = database.store.portable
        count = after = 0
        while job_ids := database.run(dead_ids(portable, wanted, after, JOBS_PER_TRANSACTION)):
            step = revive(portable, job_ids, spread_s=spread_s)
            count += len(self._app.act("dead.retry", f"{len(job_ids)} jobs", step, str(job_ids)))
            after = job_ids[-1]
        return count

    def replace(self, job: DeadJob, **arguments: object) -> JobHandle | None:
        """Enqueue a job with other arguments in the place of a dead one.

        It gets the dead one's arguments with `arguments` over them, and its queue, priority and
        attempts. A job's arguments never change, so it is a new one, with an idempotency key of its
        own; the dead one counts as cancelled from then on. None if it was not dead any more.

        Raises InvalidTask when this app has no such task; InvalidArguments.
        """
        task = self._app.task_of(job.task)
        if task is None:
            raise InvalidTask(
                f"job {job.id} is of task {job.task!r}, which this app does not have: import the "
                "module that registers it, so that the arguments can be checked"
            )
        given = {**task.handler.arguments.plain(task.current(job.task, job.args)), **arguments}
        request = task.using(
            queue=job.queue, priority=job.priority, max_attempts=job.max_attempts
        ).request(**task.handler.arguments.decode(json.dumps(given)))

        def replace() -> Step[JobHandle | None]:
            if not (yield from withdraw(self._app.database.store.portable, job.id, job.token)):
                return None
            return (yield from self._app.enqueueing([request]))[0]

        return self._app.act("dead.replace", job.id, replace(), ", ".join(arguments))

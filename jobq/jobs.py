"""The jobs of a database, as an operator sees them."""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import TYPE_CHECKING

from jobq.errors import InvalidOption, JobNotFound
from jobq.protocol.states import State
from jobq.protocol.views import (
    AuditedAction,
    Integrity,
    JobFilter,
    JobLife,
    JobPage,
    Recent,
    WorkerStatus,
)
from jobq.store.audit import audit
from jobq.store.dead import revive
from jobq.store.in_line import make_due
from jobq.store.integrity import integrity
from jobq.store.listing import all_workers, job_life, list_jobs
from jobq.store.recent import recent
from jobq.store.step import Step

if TYPE_CHECKING:
    from jobq.client import JobQueue

MOST_JOBS = 1_000
MOST_MINUTES = 24 * 60


class Jobs:
    """All jobs of the app's database, whatever their tasks. Each call blocks."""

    def __init__(self, app: JobQueue) -> None:
        self._app = app

    def list(
        self,
        *,
        state: State | str | None = None,
        queue: str | None = None,
        task: str | None = None,
        text: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> JobPage:
        """Return up to `limit` jobs, the newest first, from the one before `before` on.

        `text`: what the arguments contain, as JSON. Some thousands of jobs are looked at, whether
        they fit or not: a page may be short, and its `before` says where to go on. Raises
        InvalidOption.
        """
        if not 1 <= limit <= MOST_JOBS:
            raise InvalidOption(f"limit {limit}: use 1 to {MOST_JOBS}")
        wanted = JobFilter(None if state is None else state_of(state), queue, task, text)
        database = self._app.database
        step = list_jobs(database.store.portable, wanted, before=before, limit=limit)
        return database.run(step)

    def life(self, job_id: int) -> JobLife:
        """Return everything that is known of a job. Raises JobNotFound, JobInNoPlace."""
        database = self._app.database
        life = database.run(job_life(database.store, job_id))
        if life is None:
            raise JobNotFound(f"there is no job {job_id} in this database")
        return life

    def retry(self, job_id: int) -> bool:
        """Have a job run soon: one that is dead with all its attempts, one that waits for its time
        or its backoff right now. Return False if it is neither. Raises JobNotFound."""
        store = self._app.database.store

        def retry() -> Step[bool]:
            is_due = bool((yield from revive(store.portable, [job_id]))) or (
                yield from make_due(store.portable, job_id)
            )
            yield from store.wake()
            return is_due

        if self._app.act("job.retry", job_id, retry()):
            return True
        self._app.status(job_id)
        return False

    def recent(self, minutes: int = 60) -> Recent:
        """Return how it has gone in the last minutes, up to a day. Raises InvalidOption."""
        if not 1 <= minutes <= MOST_MINUTES:
            raise InvalidOption(f"minutes {minutes}: use 1 to {MOST_MINUTES}")
        database = self._app.database
        return database.run(recent(database.store.portable, minutes))

    def integrity(self) -> Integrity:
        """Return how leases stand, and which attempts were refused or recovered lately."""
        database = self._app.database
        return database.run(integrity(database.store.portable))


class Workers:
    """The workers of the app's database. Each call blocks."""

    def __init__(self, app: JobQueue) -> None:
        self._app = app

    def list(self) -> builtins.list[WorkerStatus]:
        """Return the workers that are known, those seen last first."""
        database = self._app.database
        return database.run(all_workers(database.store.portable))


class Audit:
    """What was done by hand, under a name: see `JobQueue.acting_as`. Each call blocks."""

    def __init__(self, app: JobQueue) -> None:
        self._app = app

    def list(
        self, *, before: datetime | None = None, limit: int = 100
    ) -> builtins.list[AuditedAction]:
        """Return up to `limit` actions, the last first, from before a time on."""
        database = self._app.database
        return database.run(audit(database.store.portable, before=before, limit=limit))


def state_of(state: State | str) -> State:
    """Return the state of that name. Raises InvalidOption."""
    try:
        return State(state)
    except ValueError:
        raise InvalidOption(f"state {state!r}: use one of {', '.join(State)}") from None

"""What waits to be run, for tests and for people who look."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Text, cast, select

from jobq.protocol.states import State
from jobq.store.portable import Portable
from jobq.store.step import Step


class WaitingJob(NamedTuple):
    """A job in one of the places where jobs wait."""

    id: int
    task: str
    args: str
    """The arguments as JSON."""
    state: State
    queue: str
    priority: int
    due_at: datetime | None
    """None when it waits for other jobs."""


def waiting_jobs(portable: Portable) -> Step[list[WaitingJob]]:
    """Every job that waits, for its time, a worker, its limits or other jobs, by its id. Reads all
    of those tables."""
    tables = portable.tables
    jobs = tables.jobs
    found = []
    for state, place, due_at in (
        (State.WAITING, tables.waiting, tables.waiting.c.run_at),
        (State.SCHEDULED, tables.scheduled, tables.scheduled.c.run_at),
        (State.READY, tables.ready, tables.ready.c.due_at),
        (State.THROTTLED, tables.throttled, tables.throttled.c.due_at),
    ):
        rows = yield from portable.run(
            select(
                jobs.c.id,
                jobs.c.task,
                cast(jobs.c.args, Text),
                jobs.c.queue,
                jobs.c.priority,
                due_at,
            )
            .join_from(place, jobs, jobs.c.id == place.c.job_id)
            .where(jobs.c.shard == portable.shard, place.c.shard == portable.shard)
        )
        found += [
            WaitingJob(job_id, task, args, state, queue, priority, due and due.astimezone(UTC))
            for job_id, task, args, queue, priority, due in rows
        ]
    return sorted(found)

"""Taking a job that waits for its time, a worker or its limits out of its place."""

from __future__ import annotations

from sqlalchemy import delete, select, update

from jobq.store.portable import Portable, now
from jobq.store.step import Step


def take_out(portable: Portable, job_id: int) -> Step[tuple[int, int] | None]:
    """Take a job out of the place where it waits; return its attempts and its token. None if it was
    claimed, or has ended: the row that is deleted is the row that decides."""
    tables, shard = portable.tables, portable.shard
    rows = yield from portable.run(
        select(tables.jobs.c.queue, tables.jobs.c.priority).where(
            tables.jobs.c.shard == shard, tables.jobs.c.id == job_id
        )
    )
    for queue, priority in rows:
        ready = tables.ready
        in_line = (ready.c.queue == queue, ready.c.priority == priority)
        for table, where in (
            (tables.scheduled, ()),
            (ready, in_line),
            (tables.throttled, ()),
        ):
            taken = yield from portable.run(
                delete(table)
                .where(table.c.shard == shard, table.c.job_id == job_id, *where)
                .returning(table.c.attempts, table.c.token)
            )
            if taken:
                attempts, token = taken[0]
                return attempts, token
    return None


def make_due(portable: Portable, job_id: int) -> Step[bool]:
    """Have a job that waits for its time be due now; return whether it did."""
    scheduled = portable.tables.scheduled
    rows = yield from portable.run(
        update(scheduled)
        .where(scheduled.c.shard == portable.shard, scheduled.c.job_id == job_id)
        .values(run_at=now())
        .returning(scheduled.c.job_id)
    )
    return bool(rows)

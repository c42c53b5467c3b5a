"""Which jobs a batched step would take: asked when one of them spoils the batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import select

from jobq.protocol.values import Lease
from jobq.store.portable import Portable, now
from jobq.store.step import Step


def expired_leases(
    portable: Portable, limit: int, of: Collection[int] | None = None
) -> Step[list[Lease]]:
    """Return leases past their time, the oldest first; with `of` only those of these jobs."""
    leases = portable.tables.leases
    found = (
        select(leases.c.job_id, leases.c.token)
        .where(leases.c.shard == portable.shard, leases.c.lease_expires_at <= now())
        .order_by(leases.c.lease_expires_at)
        .limit(limit)
    )
    if of is not None:
        found = found.where(leases.c.job_id.in_(of))
    rows = yield from portable.run(found)
    return [Lease(job_id, token) for job_id, token in rows]


def due_jobs(portable: Portable, limit: int) -> Step[list[int]]:
    """Return scheduled jobs whose time has come, the earliest first."""
    scheduled = portable.tables.scheduled
    rows = yield from portable.run(
        select(scheduled.c.job_id)
        .where(scheduled.c.shard == portable.shard, scheduled.c.run_at <= now())
        .order_by(scheduled.c.run_at)
        .limit(limit)
    )
    return [job_id for (job_id,) in rows]


def ready_jobs(portable: Portable, queue: str, tasks: Sequence[str], limit: int) -> Step[list[int]]:
    """Return the next jobs of a queue."""
    ready = portable.tables.ready
    rows = yield from portable.run(
        select(ready.c.job_id)
        .where(ready.c.shard == portable.shard, ready.c.queue == queue, ready.c.task.in_(tasks))
        .order_by(ready.c.priority, ready.c.due_at, ready.c.job_id)
        .limit(limit)
    )
    return [job_id for (job_id,) in rows]

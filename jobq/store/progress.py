"""How far jobs have come, as their handlers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC

from sqlalchemy import delete, select, tuple_

from jobq.protocol.progress import Told
from jobq.protocol.values import Lease, Progress
from jobq.store.portable import Portable, now
from jobq.store.step import Step


def report_progress(portable: Portable, told: Mapping[Lease, Told]) -> Step[None]:
    """Write how far the attempts have come, those that hold their lease."""
    leases, progress = portable.tables.leases, portable.tables.progress
    held = yield from portable.run(
        select(leases.c.job_id, leases.c.token, leases.c.attempt)
        .where(
            leases.c.shard == portable.shard,
            leases.c.job_id.in_([lease.job_id for lease in told]),
            tuple_(leases.c.job_id, leases.c.token).in_([tuple(lease) for lease in told]),
        )
        .order_by(leases.c.job_id)
    )
    rows = [
        {
            "shard": portable.shard,
            "job_id": job_id,
            "attempt": attempt,
            **told[Lease(job_id, token)]._asdict(),
            "reported_at": now(),
        }
        for job_id, token, attempt in held
    ]
    if rows:
        write = portable.insert(progress).values(rows)
        columns = ("attempt", "fraction", "note", "reported_at")
        yield from portable.run(
            write.on_conflict_do_update(
                index_elements=["job_id", "shard"],
                set_={name: write.excluded[name] for name in columns},
            )
        )


def progress_of(portable: Portable, job_id: int) -> Step[Progress | None]:
    """Return what was reported last; None if nothing was."""
    table = portable.tables.progress
    rows = yield from portable.run(
        select(table.c.fraction, table.c.note, table.c.attempt, table.c.reported_at).where(
            table.c.shard == portable.shard, table.c.job_id == job_id
        )
    )
    for fraction, note, attempt, reported_at in rows:
        return Progress(fraction, note, attempt, reported_at.astimezone(UTC))
    return None


def forget_progress(portable: Portable, job_ids: Sequence[int]) -> Step[None]:
    """Drop what is known of jobs that are pruned."""
    table = portable.tables.progress
    yield from portable.run(
        delete(table).where(table.c.shard == portable.shard, table.c.job_id.in_(job_ids))
    )

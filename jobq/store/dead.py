"""The dead jobs: what is known of them, and the way back.

`dead` is the one fate that a person may take back: the record goes and the job waits again, in one
transaction. Its tokens go on growing, so whoever held a lease of its earlier life is refused as
ever; its idempotency key and its recorded steps stay. The lock on the job's row keeps the pruner
away.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC
from typing import Any

from sqlalchemy import Select, Text, and_, cast, delete, literal, select, update

from jobq.protocol.states import AttemptEnd, Outcome
from jobq.protocol.values import AttemptError, DeadFilter, DeadJob
from jobq.store.portable import Portable, now, seconds_later
from jobq.store.step import Row, Step


def dead_jobs(
    portable: Portable, wanted: DeadFilter, after: int, limit: int
) -> Step[list[DeadJob]]:
    """Return dead jobs by their ids, from the one after `after` on."""
    jobs, records = portable.tables.jobs, portable.tables.commit_records
    attempts = portable.tables.attempts
    rows = yield from portable.run(
        _select(
            portable,
            wanted,
            after,
            limit,
            records.c.job_id,
            records.c.token,
            jobs.c.task,
            jobs.c.queue,
            cast(jobs.c.args, Text),
            jobs.c.priority,
            jobs.c.max_attempts,
            jobs.c.created_at,
            records.c.recorded_at,
            attempts.c.error_type,
            attempts.c.error_message,
            attempts.c.traceback,
        )
    )
    return [_dead_job(row) for row in rows]


def dead_ids(portable: Portable, wanted: DeadFilter, after: int, limit: int) -> Step[list[int]]:
    """Return the same jobs' ids."""
    records = portable.tables.commit_records
    rows = yield from portable.run(_select(portable, wanted, after, limit, records.c.job_id))
    return [job_id for (job_id,) in rows]


def _select(
    portable: Portable, wanted: DeadFilter, after: int, limit: int, *columns: Any
) -> Select[Any]:
    jobs, records = portable.tables.jobs, portable.tables.commit_records
    attempts = portable.tables.attempts
    last_attempt = and_(
        attempts.c.shard == records.c.shard,
        attempts.c.job_id == records.c.job_id,
        attempts.c.token == records.c.token,
    )
    filters = [
        column == value
        for column, value in (
            (jobs.c.task, wanted.task),
            (jobs.c.queue, wanted.queue),
            (attempts.c.error_type, wanted.error_type),
        )
        if value is not None
    ]
    return (
        select(*columns)
        .select_from(records)
        .join(jobs, and_(jobs.c.shard == records.c.shard, jobs.c.id == records.c.job_id))
        .outerjoin(attempts, last_attempt)
        # Spelt as the partial index has it, which a parameter would hide.
        .where(
            records.c.outcome == literal(Outcome.DEAD.value, literal_execute=True),
            records.c.shard == portable.shard,
            records.c.job_id > after,
            *filters,
        )
        .order_by(records.c.job_id)
        .limit(limit)
    )


def _dead_job(row: Row) -> DeadJob:
    job_id, token, task, queue, args, priority, max_attempts, created_at, died_at, *error = row
    return DeadJob(
        job_id,
        token,
        task,
        queue,
        args,
        priority,
        max_attempts,
        created_at.astimezone(UTC),
        died_at.astimezone(UTC),
        None if error[0] is None else AttemptError(*error),
    )


def revive(
    portable: Portable, job_ids: Sequence[int], *, token: int | None = None, spread_s: float = 0.0
) -> Step[list[int]]:
    """Have those of the jobs that are dead run again, with all their attempts; return their ids.

    `token`: only if it died holding this one. They are due within `spread_s`, evenly drawn.
    """
    yield from _hold(portable, job_ids)
    records, keys = portable.tables.commit_records, portable.tables.unique_keys
    # Whoever enqueues a unique job with a key of these waits until it is known that they live.
    yield from portable.run(
        select(keys.c.key)
        .where(keys.c.shard == portable.shard, keys.c.job_id.in_(job_ids))
        .order_by(keys.c.key)
        .with_for_update()
    )
    gone = yield from portable.run(
        delete(records)
        .where(*_dead(portable, job_ids, token))
        .returning(records.c.job_id, records.c.token)
    )
    if not gone:
        return []
    # Where its new life begins, the history says so, under a token of its own.
    history = [
        {
            "shard": portable.shard,
            "job_id": job_id,
            "token": last_token + 1,
            "attempt": 0,
            "worker": "",
            "started_at": now(),
            "ended_at": now(),
            "outcome": AttemptEnd.REVIVED.value,
        }
        for job_id, last_token in gone
    ]
    yield from portable.run(portable.insert(portable.tables.attempts).values(history))
    waiting = [
        {
            "shard": portable.shard,
            "job_id": job_id,
            "run_at": seconds_later(now(), literal(random.uniform(0, spread_s))),  # noqa: S311
            "attempts": 0,
            "token": last_token + 1,
        }
        for job_id, last_token in gone
    ]
    yield from portable.run(portable.insert(portable.tables.scheduled).values(waiting))
    return sorted(job_id for job_id, _ in gone)


def withdraw(portable: Portable, job_id: int, token: int) -> Step[bool]:
    """Have a dead job count as cancelled: another takes its place. Return whether it was dead."""
    yield from _hold(portable, [job_id])
    records = portable.tables.commit_records
    rows = yield from portable.run(
        update(records)
        .where(*_dead(portable, [job_id], token))
        .values(outcome=Outcome.CANCELLED.value)
        .returning(records.c.job_id)
    )
    return bool(rows)


def _hold(portable: Portable, job_ids: Sequence[int]) -> Step[None]:
    jobs = portable.tables.jobs
    yield from portable.run(
        select(jobs.c.id)
        .where(jobs.c.shard == portable.shard, jobs.c.id.in_(job_ids))
        .order_by(jobs.c.id)
        .with_for_update()
    )


def _dead(portable: Portable, job_ids: Sequence[int], token: int | None) -> list[Any]:
    records = portable.tables.commit_records
    exactly = [] if token is None else [records.c.token == token]
    return [
        records.c.shard == portable.shard,
        records.c.job_id.in_(job_ids),
        records.c.outcome == Outcome.DEAD.value,
        *exactly,
    ]

"""The place where jobs wait for a person, and the ways out of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from uuid import UUID

from sqlalchemy import Text, and_, cast, delete, select

from jobq.protocol.outside import AmbiguousJob, Resolution
from jobq.protocol.states import Outcome
from jobq.protocol.values import AttemptError, LeasedAttempt
from jobq.store.portable import Portable, now
from jobq.store.step import Row, Step


def park(portable: Portable, attempts: Sequence[LeasedAttempt]) -> Step[None]:
    """Put the jobs here; the caller has locked their leases, and removes them next."""
    yield from portable.run(
        portable.insert(portable.tables.ambiguous).values(
            [
                {
                    "shard": portable.shard,
                    "job_id": attempt.lease.job_id,
                    "token": attempt.lease.token,
                    "attempt": attempt.attempt,
                    "parked_at": now(),
                }
                for attempt in attempts
            ]
        )
    )


def unpark(portable: Portable, job_id: int) -> Step[int | None]:
    """Take the job out; return its last lease token, None when it is not here."""
    ambiguous = portable.tables.ambiguous
    rows = yield from portable.run(
        delete(ambiguous)
        .where(ambiguous.c.shard == portable.shard, ambiguous.c.job_id == job_id)
        .returning(ambiguous.c.token)
    )
    return int(rows[0][0]) if rows else None


def ambiguous_jobs(portable: Portable, after: int, limit: int) -> Step[list[AmbiguousJob]]:
    """Return the jobs that wait here, by their ids from the one after `after` on."""
    ambiguous, jobs = portable.tables.ambiguous, portable.tables.jobs
    attempts = portable.tables.attempts
    rows = yield from portable.run(
        select(
            ambiguous.c.job_id,
            ambiguous.c.token,
            jobs.c.task,
            jobs.c.queue,
            cast(jobs.c.args, Text),
            jobs.c.idempotency_key,
            ambiguous.c.attempt,
            attempts.c.worker,
            attempts.c.started_at,
            ambiguous.c.parked_at,
            attempts.c.error_type,
            attempts.c.error_message,
            attempts.c.traceback,
        )
        .select_from(ambiguous)
        .join(jobs, and_(jobs.c.shard == ambiguous.c.shard, jobs.c.id == ambiguous.c.job_id))
        .join(
            attempts,
            and_(
                attempts.c.shard == ambiguous.c.shard,
                attempts.c.job_id == ambiguous.c.job_id,
                attempts.c.token == ambiguous.c.token,
            ),
        )
        .where(ambiguous.c.shard == portable.shard, ambiguous.c.job_id > after)
        .order_by(ambiguous.c.job_id)
        .limit(limit)
    )
    return [_ambiguous_job(row) for row in rows]


def _ambiguous_job(row: Row) -> AmbiguousJob:
    job_id, token, task, queue, args, key, attempt, worker, started_at, parked_at, *error = row
    return AmbiguousJob(
        job_id,
        token,
        task,
        queue,
        args,
        UUID(str(key)),
        attempt,
        worker,
        started_at.astimezone(UTC),
        parked_at.astimezone(UTC),
        None if error[0] is None else AttemptError(*error),
    )


def resolve(portable: Portable, job: AmbiguousJob, resolution: Resolution) -> Step[bool]:
    """Do as decided; return whether the job still waited with that attempt.

    Of several who decide at once the first to take the row out wins; the others find none.
    """
    ambiguous = portable.tables.ambiguous
    taken = yield from portable.run(
        delete(ambiguous)
        .where(
            ambiguous.c.shard == portable.shard,
            ambiguous.c.job_id == job.id,
            ambiguous.c.token == job.token,
        )
        .returning(ambiguous.c.attempt)
    )
    if not taken:
        return False
    place = {"shard": portable.shard, "job_id": job.id, "token": job.token}
    if resolution is Resolution.RETRY:
        ((attempt,),) = taken
        waiting = portable.insert(portable.tables.scheduled)
        yield from portable.run(waiting.values(**place, run_at=now(), attempts=attempt - 1))
        return True
    outcome = Outcome.COMMITTED if resolution is Resolution.DONE else Outcome.DEAD
    fate = portable.insert(portable.tables.commit_records)
    yield from portable.run(fate.values(**place, outcome=outcome.value, recorded_at=now()))
    return True

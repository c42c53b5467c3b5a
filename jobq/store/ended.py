"""What became of jobs, asked for many at once by those who wait for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import and_, select

from jobq.protocol.states import Outcome
from jobq.protocol.values import AttemptError, Ended
from jobq.store.portable import Portable
from jobq.store.step import Step


def ended_jobs(portable: Portable, job_ids: Sequence[int]) -> Step[Mapping[int, Ended | None]]:
    """Return the fates of the jobs, None for those that have none yet; jobs that do not exist are
    left out."""
    tables = portable.tables
    jobs, records, attempts = tables.jobs, tables.commit_records, tables.attempts
    of_job = and_(records.c.shard == jobs.c.shard, records.c.job_id == jobs.c.id)
    last_attempt = and_(
        attempts.c.shard == records.c.shard,
        attempts.c.job_id == records.c.job_id,
        attempts.c.token == records.c.token,
    )
    rows = yield from portable.run(
        select(
            jobs.c.id,
            jobs.c.task,
            records.c.outcome,
            records.c.result,
            attempts.c.error_type,
            attempts.c.error_message,
            attempts.c.traceback,
        )
        .select_from(jobs)
        .outerjoin(records, of_job)
        .outerjoin(attempts, last_attempt)
        .where(jobs.c.shard == portable.shard, jobs.c.id.in_(job_ids))
    )
    return {
        job_id: None
        if outcome is None
        else Ended(
            task,
            Outcome(outcome),
            result,
            None if error[0] is None else AttemptError(*error),
        )
        for job_id, task, outcome, result, *error in rows
    }

"""What people look at: lists of jobs, the life of one, workers, and what happened lately.

Nothing here locks anything. A list is walked by job id from the newest on, so many jobs at a time
whatever the filter, so that to look costs the same however many jobs are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, and_, case, cast, exists, func, literal, select

from jobq.protocol.states import Outcome, Stage, State
from jobq.protocol.views import (
    CommitRecord,
    JobFilter,
    JobLife,
    JobPage,
    JobSummary,
    LiveLease,
    RefusedAttempt,
    WorkerStatus,
)
from jobq.store.base import Store
from jobq.store.portable import Portable, now
from jobq.store.progress import progress_of
from jobq.store.step import Row, Step
from jobq.store.steps import steps_of

JOBS_PER_WALK = 5_000
OUTCOMES = {
    State.DONE: Outcome.COMMITTED,
    State.DEAD: Outcome.DEAD,
    State.CANCELLED: Outcome.CANCELLED,
}


def list_jobs(
    portable: Portable, wanted: JobFilter, *, before: int | None, limit: int
) -> Step[JobPage]:
    """The newest jobs that fit, from the one before `before` on.

    Of a rare kind a page may have few jobs or none, and say where to go on.
    """
    walked = _walked(portable, wanted.state, before)
    jobs = portable.tables.jobs
    fits = [
        column == value
        for column, value in ((jobs.c.queue, wanted.queue), (jobs.c.task, wanted.task))
        if value is not None
    ]
    if wanted.text is not None:
        fits.append(cast(jobs.c.args, Text).contains(wanted.text, autoescape=True))
    found = yield from portable.run(
        select(jobs.c.id)
        .join_from(walked, jobs, and_(jobs.c.id == walked.c.job_id, jobs.c.shard == portable.shard))
        .where(*fits)
        .order_by(jobs.c.id.desc())
        .limit(limit)
    )
    job_ids = [job_id for (job_id,) in found]
    if len(job_ids) == limit:
        further: int | None = job_ids[-1]
    else:
        ((count, last),) = yield from portable.run(
            select(func.count(), func.min(walked.c.job_id)).select_from(walked)
        )
        further = last if count == JOBS_PER_WALK else None
    summaries = yield from job_summaries(portable, job_ids)
    # What moved meanwhile is listed under what it is now, or not at all.
    kept = [one for one in summaries if wanted.state in (None, one.state)]
    return JobPage(kept, further)


def _walked(portable: Portable, state: State | None, before: int | None) -> Any:
    """The ids of the next jobs of this state, or nearly so."""
    tables = portable.tables
    place: Any
    where: list[ColumnElement[bool]] = []
    if state is None:
        place, key = tables.jobs, tables.jobs.c.id
    elif state in OUTCOMES:
        place, key = tables.commit_records, tables.commit_records.c.job_id
        where.append(place.c.outcome == literal(OUTCOMES[state].value, literal_execute=True))
    elif state in (State.LEASED, State.COMMITTED):
        place, key = tables.leases, tables.leases.c.job_id
    else:
        place = getattr(tables, state.value)
        key = place.c.job_id
    where.append(place.c.shard == portable.shard)
    if before is not None:
        where.append(key < before)
    # In the text itself: a plan for any limit would be one for a tenth of the table.
    limit = literal(JOBS_PER_WALK, literal_execute=True)
    return select(key.label("job_id")).where(*where).order_by(key.desc()).limit(limit).subquery()


def job_summaries(portable: Portable, job_ids: Sequence[int]) -> Step[list[JobSummary]]:
    """These jobs, the newest first; those that are gone are left out.

    Whoever is in no other place is ready: a look for it there would go along its whole line.
    """
    if not job_ids:
        return []
    tables = portable.tables
    jobs, leases, records = tables.jobs, tables.leases, tables.commit_records
    is_leased = leases.c.job_id.is_not(None)
    state = case(
        (and_(is_leased, records.c.outcome.is_not(None)), State.COMMITTED.value),
        (records.c.outcome == Outcome.COMMITTED.value, State.DONE.value),
        (records.c.outcome.is_not(None), records.c.outcome),
        (is_leased, State.LEASED.value),
        *((_is_in(portable, place), place) for place in SIDE_PLACES),
        else_=State.READY.value,
    )
    rows = yield from portable.run(
        select(
            jobs.c.id,
            state.label("state"),
            jobs.c.queue,
            jobs.c.task,
            cast(jobs.c.args, Text).label("args"),
            jobs.c.priority,
            jobs.c.max_attempts,
            jobs.c.created_at,
            func.coalesce(leases.c.worker, records.c.worker).label("worker"),
            func.coalesce(leases.c.acquired_at, records.c.acquired_at, type_=leases.c.due_at.type),
            records.c.recorded_at,
        )
        .select_from(jobs)
        .outerjoin(leases, and_(leases.c.shard == jobs.c.shard, leases.c.job_id == jobs.c.id))
        .outerjoin(records, and_(records.c.shard == jobs.c.shard, records.c.job_id == jobs.c.id))
        .where(jobs.c.shard == portable.shard, jobs.c.id.in_(job_ids))
        .order_by(jobs.c.id.desc())
    )
    return [_summary(row) for row in rows]


SIDE_PLACES = (
    State.SCHEDULED.value,
    State.WAITING.value,
    State.THROTTLED.value,
    State.AMBIGUOUS.value,
)


def _is_in(portable: Portable, place: str) -> ColumnElement[bool]:
    table = getattr(portable.tables, place)
    jobs = portable.tables.jobs
    return exists().where(table.c.shard == jobs.c.shard, table.c.job_id == jobs.c.id)


def _summary(row: Row) -> JobSummary:
    job_id, state, queue, task, args, priority, max_attempts, *rest = row
    created_at, worker, acquired_at, recorded_at = rest
    return JobSummary(
        job_id,
        State(state),
        queue,
        task,
        args,
        priority,
        max_attempts,
        created_at.astimezone(UTC),
        worker,
        _utc(acquired_at),
        _utc(recorded_at),
    )


def job_life(store: Store, job_id: int) -> Step[JobLife | None]:
    """Everything that is known of a job, in one transaction; None if there is no such job."""
    portable = store.portable
    tables = portable.tables
    status = yield from store.job(job_id)
    if status is None:
        return None
    attempts = yield from store.attempts(job_id)
    ((headers,),) = yield from portable.run(_of(portable, tables.jobs, job_id, "headers", key="id"))
    leases = yield from portable.run(
        _of(
            portable,
            tables.leases,
            job_id,
            *("token", "attempt", "worker", "due_at", "acquired_at", "lease_expires_at"),
        ).add_columns((tables.leases.c.lease_expires_at <= now()).label("is_expired"))
    )
    records = yield from portable.run(
        _of(
            portable,
            tables.commit_records,
            job_id,
            *("outcome", "token", "recorded_at", "worker", "due_at", "acquired_at"),
        )
    )
    refusals = yield from portable.run(
        _of(
            portable, tables.refusals, job_id, "token", "stage", "worker", "reason", "refused_at"
        ).order_by(tables.refusals.c.refused_at)
    )
    deadlines = yield from portable.run(_of(portable, tables.deadlines, job_id, "deadline_at"))
    needed = yield from portable.run(_of(portable, tables.dependencies, job_id, "needs_job_id"))
    needed_by = yield from portable.run(
        _of(portable, tables.dependencies, job_id, "job_id", key="needs_job_id")
    )
    steps = yield from steps_of(portable, job_id)
    progress = yield from progress_of(portable, job_id)
    return JobLife(
        status=status,
        headers=headers,
        attempts=tuple(attempts),
        refusals=tuple(
            RefusedAttempt(token, Stage(stage), worker, reason, at.astimezone(UTC))
            for token, stage, worker, reason, at in refusals
        ),
        lease=next((_lease(row) for row in leases), None),
        record=next((_record(row) for row in records), None),
        steps=tuple(steps),
        progress=progress,
        deadline_at=next((_utc(at) for (at,) in deadlines), None),
        waits_for=tuple(sorted(job_id for (job_id,) in needed)),
        is_waited_for_by=tuple(sorted(job_id for (job_id,) in needed_by)),
    )


def _of(
    portable: Portable, table: Any, job_id: int, *columns: str, key: str = "job_id"
) -> Select[Any]:
    return select(*(table.c[name] for name in columns)).where(
        table.c.shard == portable.shard, table.c[key] == job_id
    )


def _lease(row: Row) -> LiveLease:
    token, attempt, worker, due_at, acquired_at, expires_at, is_expired = row
    return LiveLease(
        token,
        attempt,
        worker,
        due_at.astimezone(UTC),
        acquired_at.astimezone(UTC),
        expires_at.astimezone(UTC),
        bool(is_expired),
    )


def _record(row: Row) -> CommitRecord:
    outcome, token, recorded_at, worker, due_at, acquired_at = row
    return CommitRecord(
        Outcome(outcome),
        token,
        recorded_at.astimezone(UTC),
        worker,
        _utc(due_at),
        _utc(acquired_at),
    )


def all_workers(portable: Portable) -> Step[list[WorkerStatus]]:
    """The workers that are known, those that were seen last first, with the leases they hold."""
    workers, leases = portable.tables.workers, portable.tables.leases
    held = (
        select(func.count())
        .where(leases.c.shard == workers.c.shard, leases.c.worker == workers.c.id)
        .scalar_subquery()
    )
    rows = yield from portable.run(
        select(
            workers.c.id,
            workers.c.started_at,
            workers.c.seen_at,
            workers.c.stopped_at,
            workers.c.about,
            held.label("held"),
            now().label("now"),
        )
        .where(workers.c.shard == portable.shard)
        .order_by(workers.c.seen_at.desc(), workers.c.id)
    )
    return [
        WorkerStatus.read(
            name,
            started_at.astimezone(UTC),
            seen_at.astimezone(UTC),
            _utc(stopped_at),
            about,
            leases=held,
            silent_s=(at - seen_at).total_seconds(),
        )
        for name, started_at, seen_at, stopped_at, about, held, at in rows
    ]


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)

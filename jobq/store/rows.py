"""Rows as values, the same for both backends once their times are datetimes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from jobq.errors import JobInNoPlace
from jobq.protocol.retention import WalkedJob
from jobq.protocol.states import AttemptEnd, Outcome, State
from jobq.protocol.values import (
    AttemptError,
    Claim,
    ClaimedJob,
    EndedAttempt,
    Exchanged,
    JobStatus,
    Lease,
)
from jobq.store.step import Row, Rows


class JobRow(NamedTuple):
    """What the JOB statement selects: the job, and what each place knows of it."""

    id: int
    queue: str
    task: str
    args: str
    priority: int
    max_attempts: int
    idempotency_key: UUID
    created_at: datetime
    run_at: datetime | None
    scheduled_attempts: int | None
    ready_due_at: datetime | None
    ready_attempts: int | None
    leased_due_at: datetime | None
    leased_attempt: int | None
    worker: str | None
    lease_expires_at: datetime | None
    outcome: str | None
    recorded_at: datetime | None
    ended_attempt: int | None
    """The number of the last attempt in the history that was spent."""
    record_is_in_history: bool | None
    """Whether the attempt that holds the record ended in the history too (healed, dead)."""
    throttled_due_at: datetime | None
    throttled_attempts: int | None
    ambiguous_attempt: int | None
    result: str | None
    waiting_token: int | None


def job_status(row: JobRow) -> JobStatus:
    """Raises JobInNoPlace."""
    return JobStatus(
        id=row.id,
        state=_state(row),
        queue=row.queue,
        task=row.task,
        args=row.args,
        priority=row.priority,
        attempts=_attempts(row),
        max_attempts=row.max_attempts,
        idempotency_key=row.idempotency_key,
        created_at=row.created_at.astimezone(UTC),
        due_at=_utc(row.run_at or row.ready_due_at or row.throttled_due_at or row.leased_due_at),
        worker=row.worker,
        lease_expires_at=_utc(row.lease_expires_at),
        recorded_at=_utc(row.recorded_at),
        result=row.result,
    )


def _state(row: JobRow) -> State:
    if row.outcome is not None and row.worker is not None:
        return State.COMMITTED
    if row.outcome is not None:
        outcome = Outcome(row.outcome)
        return State.DONE if outcome is Outcome.COMMITTED else State(outcome.value)
    if row.worker is not None:
        return State.LEASED
    if row.waiting_token is not None:
        return State.WAITING
    if row.throttled_due_at is not None:
        return State.THROTTLED
    if row.ambiguous_attempt is not None:
        return State.AMBIGUOUS
    if row.ready_due_at is not None:
        return State.READY
    if row.run_at is not None:
        return State.SCHEDULED
    raise JobInNoPlace(row.id)


def _attempts(row: JobRow) -> int:
    for spent in (
        row.leased_attempt,
        row.ready_attempts,
        row.throttled_attempts,
        row.scheduled_attempts,
        row.ambiguous_attempt,
    ):
        if spent is not None:
            return spent
    ended = row.ended_attempt or 0
    # The attempt that committed and was finalized by its own worker is not in the history.
    committed_quietly = row.outcome == Outcome.COMMITTED and not row.record_is_in_history
    return ended + 1 if committed_quietly else ended


def ended_attempt(row: Row) -> EndedAttempt:
    token, attempt, worker, started_at, ended_at, outcome, expires_at, *described = row
    error_type, message, traceback = described
    error = None if error_type is None else AttemptError(error_type, message, traceback)
    return EndedAttempt(
        token,
        attempt,
        worker,
        started_at.astimezone(UTC),
        ended_at.astimezone(UTC),
        AttemptEnd(outcome),
        error,
        _utc(expires_at),
    )


def claimed_job(row: Row) -> ClaimedJob:
    job_id, token, queue, task, args, priority, due_at, attempt, max_attempts, *more = row
    key, created_at, acquired_at, headers = more
    return ClaimedJob(
        lease=Lease(job_id, token),
        queue=queue,
        task=task,
        args=args,
        priority=priority,
        due_at=due_at.astimezone(UTC),
        attempt=attempt,
        max_attempts=max_attempts,
        idempotency_key=key,
        created_at=created_at.astimezone(UTC),
        acquired_at=acquired_at.astimezone(UTC),
        headers=headers,
    )


def exchanged(claim: Claim, rows: Rows) -> Exchanged:
    """Rows of claimed jobs, and those with nothing but a lease that got no record."""
    claimed = [claimed_job(row) for row in rows if row[2] is not None]
    rank = {queue: number for number, queue in enumerate(claim.queues)}
    claimed.sort(key=lambda job: (rank[job.queue], job.priority, job.due_at, job.lease.job_id))
    return Exchanged(claimed, [Lease(row[0], row[1]) for row in rows if row[2] is None])


def _utc(moment: datetime | None) -> datetime | None:
    """psycopg gives times in the session's zone; a time is the same everywhere in UTC."""
    return None if moment is None else moment.astimezone(UTC)


def walked_job(row: Row) -> WalkedJob:
    job_id, task, age_s, outcome, ended_s = row
    if outcome is None:
        return WalkedJob(job_id, task, age_s, None, 0.0)
    return WalkedJob(job_id, task, age_s, Outcome(outcome), ended_s)

"""What tells whether the promise is kept: leases, and attempts that came too late."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, literal, select

from jobq.protocol.states import AttemptEnd, Outcome
from jobq.protocol.views import Integrity, LateAttempt, OpenLease, RecoveredAttempt
from jobq.store.portable import Portable, now, seconds_later
from jobq.store.step import Step

DAY_S = 86_400.0
SHOWN = 25


def integrity(portable: Portable) -> Step[Integrity]:
    """How leases stand, and the last that was refused or recovered."""
    tables, shard = portable.tables, portable.shard
    leases, records, jobs = tables.leases, tables.commit_records, tables.jobs
    refusals, attempts = tables.refusals, tables.attempts
    open_leases = yield from portable.run(
        select(
            leases.c.job_id,
            jobs.c.task,
            leases.c.token,
            leases.c.attempt,
            leases.c.worker,
            leases.c.acquired_at,
            leases.c.lease_expires_at,
            (leases.c.lease_expires_at <= now()).label("is_expired"),
            records.c.outcome,
        )
        .select_from(leases)
        .join(jobs, (jobs.c.id == leases.c.job_id) & (jobs.c.shard == leases.c.shard))
        .outerjoin(
            records, (records.c.job_id == leases.c.job_id) & (records.c.shard == leases.c.shard)
        )
        .where(leases.c.shard == shard)
        .order_by(leases.c.lease_expires_at)
        .limit(SHOWN)
    )
    ((held,),) = yield from portable.run(select(func.count()).where(leases.c.shard == shard))
    ((expired,),) = yield from portable.run(
        select(func.count()).where(leases.c.shard == shard, leases.c.lease_expires_at <= now())
    )
    ((unfinalized,),) = yield from portable.run(
        select(func.count())
        .select_from(leases)
        .join(records, (records.c.job_id == leases.c.job_id) & (records.c.shard == leases.c.shard))
        .where(leases.c.shard == shard, records.c.outcome == Outcome.COMMITTED.value)
    )
    yesterday = seconds_later(now(), literal(-DAY_S))
    reasons = yield from portable.run(
        select(refusals.c.reason, func.count())
        .where(refusals.c.shard == shard, refusals.c.refused_at > yesterday)
        .group_by(refusals.c.reason)
    )
    refused = yield from portable.run(
        select(
            refusals.c.job_id,
            refusals.c.token,
            refusals.c.stage,
            refusals.c.worker,
            refusals.c.reason,
            refusals.c.refused_at,
        )
        .where(refusals.c.shard == shard)
        .order_by(refusals.c.refused_at.desc())
        .limit(SHOWN)
    )
    ends = (AttemptEnd.HEALED.value, AttemptEnd.EXPIRED.value)
    recovered_counts = yield from portable.run(
        select(attempts.c.outcome, func.count())
        .where(
            attempts.c.shard == shard,
            attempts.c.outcome.in_(ends),
            attempts.c.ended_at > yesterday,
        )
        .group_by(attempts.c.outcome)
    )
    recovered = yield from portable.run(
        select(
            attempts.c.job_id,
            attempts.c.token,
            attempts.c.worker,
            attempts.c.outcome,
            attempts.c.ended_at,
        )
        .where(attempts.c.shard == shard, attempts.c.outcome.in_(ends))
        .order_by(attempts.c.ended_at.desc())
        .limit(SHOWN)
    )
    return Integrity(
        leases_held=held,
        leases_expired=expired,
        committed_not_done=unfinalized,
        refused={row[0]: row[1] for row in reasons},
        recovered={AttemptEnd(outcome): count for outcome, count in recovered_counts},
        leases=[
            OpenLease(
                job_id=row[0],
                task=row[1],
                token=row[2],
                attempt=row[3],
                worker=row[4],
                acquired_at=_utc(row[5]),
                lease_expires_at=_utc(row[6]),
                is_expired=bool(row[7]),
                has_fate=row[8] is not None,
            )
            for row in open_leases
        ],
        late=[
            LateAttempt(job_id, token, stage, worker, reason, _utc(at))
            for job_id, token, stage, worker, reason, at in refused
        ],
        recoveries=[
            RecoveredAttempt(job_id, token, worker, AttemptEnd(end), _utc(at))
            for job_id, token, worker, end, at in recovered
        ],
    )


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)

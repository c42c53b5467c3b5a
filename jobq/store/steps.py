"""Steps and beginnings: what an attempt records of its effects outside the database.

Each in a transaction of its own, fenced by the lease, so that an effect that rolls back later does
not forget what was done outside. A step is recorded under the lease's lock, and the next attempt's
lease comes after that one is gone: what an attempt recorded, every later one sees.
"""

from __future__ import annotations

from datetime import UTC
from typing import Any, NoReturn

from sqlalchemy import ColumnElement, and_, select, update

from jobq.errors import AlreadyCommitted, LeaseLost
from jobq.protocol.outside import OutsideEffects, RecordedStep
from jobq.protocol.states import Outcome
from jobq.protocol.values import Lease
from jobq.store.portable import Portable, now
from jobq.store.step import Step


def begin(portable: Portable, lease: Lease, policy: OutsideEffects) -> Step[None]:
    """Note on the lease that its handler begins, for whoever ends it.

    May be repeated. Raises LeaseLost; AlreadyCommitted when the job has its fate.
    """
    leases = portable.tables.leases
    begun = yield from portable.run(
        update(leases)
        .where(_is(portable, leases, lease))
        .values(begun_as=policy.value)
        .returning(leases.c.token)
    )
    outcome = yield from _outcome(portable, lease)
    if not begun or outcome is not None:
        _refuse(lease, outcome)


def find_step(portable: Portable, lease: Lease, name: str) -> Step[str | None]:
    """Return the step's recorded result, None when the step is to be run.

    Raises LeaseLost; AlreadyCommitted when the job has its fate.
    """
    leases, steps = portable.tables.leases, portable.tables.steps
    records = portable.tables.commit_records
    found = yield from portable.run(
        select(records.c.outcome, steps.c.result)
        .select_from(leases)
        .outerjoin(records, _same_job(records, leases))
        .outerjoin(steps, and_(_same_job(steps, leases), steps.c.name == name))
        .where(_is(portable, leases, lease))
    )
    if not found:
        _refuse(lease, (yield from _outcome(portable, lease)))
    ((outcome, result),) = found
    if outcome is not None:
        _refuse(lease, outcome)
    return None if result is None else str(result)


def record_step(portable: Portable, lease: Lease, name: str, result: str) -> Step[str]:
    """Record the step's result, unless it has one; return the one it has.

    May be repeated. Raises LeaseLost, or AlreadyCommitted when the lease went with the job's fate.
    Under a live lease it is recorded even if the job was cancelled meanwhile: it has been done.
    """
    leases, steps = portable.tables.leases, portable.tables.steps
    held = yield from portable.run(
        select(leases.c.token)
        .where(_is(portable, leases, lease))
        .with_for_update(read=True, key_share=True)
    )
    if not held:
        _refuse(lease, (yield from _outcome(portable, lease)))
    job_id, token = lease
    yield from portable.run(
        portable.insert(steps)
        .values(
            shard=portable.shard,
            job_id=job_id,
            name=name,
            token=token,
            result=result,
            recorded_at=now(),
        )
        .on_conflict_do_nothing()
    )
    # The attempt's own earlier try, whose answer was lost, may have come first after all.
    ((recorded,),) = yield from portable.run(
        select(steps.c.result).where(_of(portable, steps, job_id), steps.c.name == name)
    )
    return str(recorded)


def steps_of(portable: Portable, job_id: int) -> Step[list[RecordedStep]]:
    """Return the job's recorded steps, in the order in which they were recorded."""
    steps = portable.tables.steps
    rows = yield from portable.run(
        select(steps.c.name, steps.c.result, steps.c.token, steps.c.recorded_at)
        .where(_of(portable, steps, job_id))
        .order_by(steps.c.recorded_at, steps.c.name)
    )
    return [
        RecordedStep(name, result, token, recorded_at.astimezone(UTC))
        for name, result, token, recorded_at in rows
    ]


def _outcome(portable: Portable, lease: Lease) -> Step[str | None]:
    records = portable.tables.commit_records
    rows = yield from portable.run(
        select(records.c.outcome).where(_of(portable, records, lease.job_id))
    )
    return rows[0][0] if rows else None


def _refuse(lease: Lease, outcome: str | None) -> NoReturn:
    if outcome is None:
        raise LeaseLost(lease.job_id, lease.token)
    raise AlreadyCommitted(lease.job_id, lease.token, Outcome(outcome))


def _is(portable: Portable, leases: Any, lease: Lease) -> ColumnElement[bool]:
    return and_(_of(portable, leases, lease.job_id), leases.c.token == lease.token)


def _of(portable: Portable, table: Any, job_id: int) -> ColumnElement[bool]:
    return and_(table.c.shard == portable.shard, table.c.job_id == job_id)


def _same_job(table: Any, leases: Any) -> ColumnElement[bool]:
    return and_(table.c.shard == leases.c.shard, table.c.job_id == leases.c.job_id)

"""Jobs that are not to begin after a certain time.

A deadline is a row of its own, so that jobs without one pay nothing. A sweep takes jobs whose time
is over out of the place where they wait; a claim that comes first has it. One that runs meanwhile
is left to run, and looked at again in case it comes back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, literal, select, update

from jobq.protocol.states import AttemptEnd, Outcome
from jobq.protocol.values import AttemptError
from jobq.store.flow import leave_waiting
from jobq.store.in_line import take_out
from jobq.store.portable import Portable, now, seconds_later
from jobq.store.step import Step

JOBS_PER_SWEEP = 100
TOO_LATE = AttemptError(
    "jobq.DeadlinePassed", "no further attempt was begun: the job's deadline has passed", ""
)
AGAIN_S = 1.0
"""When to look again at a job that runs past its deadline."""


def set_deadlines(portable: Portable, deadlines: Mapping[int, datetime | float]) -> Step[None]:
    """Give jobs of this transaction their deadlines: a time, or seconds from now."""
    rows = [
        {
            "shard": portable.shard,
            "job_id": job_id,
            "deadline_at": deadline
            if isinstance(deadline, datetime)
            else seconds_later(now(), literal(deadline)),
        }
        for job_id, deadline in deadlines.items()
    ]
    for row in rows:
        yield from portable.run(portable.insert(portable.tables.deadlines).values(**row))


def bury_late(portable: Portable) -> Step[list[int]]:
    """Bury the jobs that wait past their deadlines; return their ids."""
    tables = portable.tables
    deadlines, records, leases = tables.deadlines, tables.commit_records, tables.leases
    rows = yield from portable.run(
        select(
            deadlines.c.job_id,
            exists().where(
                records.c.shard == deadlines.c.shard, records.c.job_id == deadlines.c.job_id
            ),
            exists().where(
                leases.c.shard == deadlines.c.shard, leases.c.job_id == deadlines.c.job_id
            ),
        )
        .where(deadlines.c.shard == portable.shard, deadlines.c.deadline_at <= now())
        .order_by(deadlines.c.deadline_at)
        .limit(JOBS_PER_SWEEP)
        .with_for_update(skip_locked=True, of=deadlines)
    )
    buried: list[int] = []
    over: list[int] = []
    running: list[int] = []
    for job_id, has_fate, is_leased in rows:
        if has_fate:
            over.append(job_id)
            continue
        taken = None if is_leased else (yield from _take_from_anywhere(portable, job_id))
        if taken is None:
            running.append(job_id)  # or caught moving
            continue
        attempts, token = taken
        yield from _bury(portable, job_id, attempts, token + 1)
        buried.append(job_id)
    if gone := [*over, *buried]:
        yield from portable.run(delete(deadlines).where(*_of(portable, gone)))
    if running:
        later = seconds_later(now(), literal(AGAIN_S))
        yield from portable.run(
            update(deadlines).where(*_of(portable, running)).values(deadline_at=later)
        )
    return buried


def forget_deadlines(portable: Portable, job_ids: Sequence[int]) -> Step[None]:
    """Drop those of jobs that are pruned."""
    yield from portable.run(delete(portable.tables.deadlines).where(*_of(portable, job_ids)))


def _take_from_anywhere(portable: Portable, job_id: int) -> Step[tuple[int, int] | None]:
    taken = yield from take_out(portable, job_id)
    if taken is not None:
        return taken
    token = yield from leave_waiting(portable, job_id)
    return None if token is None else (0, token)


def _bury(portable: Portable, job_id: int, attempts: int, token: int) -> Step[None]:
    """Nobody held a lease with this token: it stands for the attempt that was not begun."""
    tables = portable.tables
    ours = {"shard": portable.shard, "job_id": job_id, "token": token}
    history = portable.insert(tables.attempts).values(
        **ours,
        attempt=attempts,
        worker="",
        started_at=now(),
        ended_at=now(),
        outcome=AttemptEnd.EXPIRED.value,
        error_type=TOO_LATE.type,
        error_message=TOO_LATE.message,
        traceback=TOO_LATE.traceback,
    )
    yield from portable.run(history)
    fate = portable.insert(tables.commit_records).values(
        **ours, outcome=Outcome.DEAD.value, recorded_at=now()
    )
    yield from portable.run(fate)


def _of(portable: Portable, job_ids: Sequence[int]) -> tuple[Any, Any]:
    deadlines = portable.tables.deadlines
    return (deadlines.c.shard == portable.shard, deadlines.c.job_id.in_(job_ids))

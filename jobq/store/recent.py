"""What happened lately, by the minute: from the jobs and their records, with nothing counted ahead.

The indexes that find what is recent are BRIN (see `jobq.models`); SQLite reads the table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, literal, select

from jobq.protocol.states import Outcome, State
from jobq.protocol.views import Minute, Recent
from jobq.store.portable import Portable, minute_of, now, seconds_between
from jobq.store.step import Row, Step

SAMPLE = 4_000
"""Of so many commits, the newest, the times are looked at."""


def recent(portable: Portable, minutes: int) -> Step[Recent]:
    """What happened in the last `minutes` whole minutes and the one that has begun."""
    tables, shard = portable.tables, portable.shard
    jobs, records = tables.jobs, tables.commit_records
    ((at,),) = yield from portable.run(select(now().label("at")))
    begin = at.astimezone(UTC).replace(second=0, microsecond=0) - timedelta(minutes=minutes)
    since = literal(begin, type_=records.c.recorded_at.type)

    minute = minute_of(jobs.c.created_at)
    enqueued = yield from portable.run(
        select(minute.label("minute"), func.count())
        .where(jobs.c.shard == shard, jobs.c.created_at >= since)
        .group_by(minute)
    )
    minute = minute_of(records.c.recorded_at)
    ended = yield from portable.run(
        select(minute.label("minute"), records.c.outcome, func.count())
        .where(records.c.shard == shard, records.c.recorded_at >= since)
        .group_by(minute, records.c.outcome)
    )
    timed = yield from portable.run(
        select(
            minute.label("minute"),
            seconds_between(records.c.due_at, records.c.acquired_at).label("waited"),
            seconds_between(records.c.acquired_at, records.c.recorded_at).label("ran"),
        )
        .where(
            records.c.shard == shard,
            records.c.recorded_at >= since,
            records.c.acquired_at.is_not(None),
        )
        .order_by(records.c.job_id.desc())
        .limit(SAMPLE)
    )
    places = yield from open_counts(portable)
    return Recent(
        at.astimezone(UTC),
        places,
        tuple(_minutes(begin, minutes, enqueued, ended, timed)),
    )


def _minutes(
    begin: datetime,
    minutes: int,
    enqueued: Sequence[Row],
    ended: Sequence[Row],
    timed: Sequence[Row],
) -> Iterable[Minute]:
    came = {_utc(minute): count for minute, count in enqueued}
    went: dict[datetime, dict[Outcome, int]] = defaultdict(dict)
    for minute, outcome, count in ended:
        went[_utc(minute)][Outcome(outcome)] = count
    waited: dict[datetime, list[float]] = defaultdict(list)
    ran: dict[datetime, list[float]] = defaultdict(list)
    for minute, waited_s, ran_s in timed:
        waited[_utc(minute)].append(waited_s)
        ran[_utc(minute)].append(ran_s)
    for number in range(minutes + 1):
        at = begin + timedelta(minutes=number)
        ends = went.get(at, {})
        yield Minute(
            at,
            came.get(at, 0),
            ends.get(Outcome.COMMITTED, 0),
            ends.get(Outcome.DEAD, 0),
            ends.get(Outcome.CANCELLED, 0),
            tuple(_quantile(waited.get(at, ()), q) for q in (0.5, 0.95)),  # type: ignore[arg-type]
            tuple(_quantile(ran.get(at, ()), q) for q in (0.5, 0.95)),  # type: ignore[arg-type]
        )


def _quantile(values: Sequence[float], q: float) -> float | None:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else None


def open_counts(portable: Portable) -> Step[dict[State, int]]:
    """How many jobs are in each state that is not the end, and how many are dead."""
    tables, shard = portable.tables, portable.shard
    leases, records = tables.leases, tables.commit_records
    counts: dict[State, int] = {}
    for state in (
        State.SCHEDULED,
        State.WAITING,
        State.READY,
        State.THROTTLED,
        State.AMBIGUOUS,
    ):
        table = getattr(tables, state.value)
        counts[state] = yield from _count(
            portable, select(func.count()).where(table.c.shard == shard)
        )
    held = yield from _count(portable, select(func.count()).where(leases.c.shard == shard))
    counts[State.COMMITTED] = yield from _count(
        portable,
        select(func.count())
        .select_from(leases)
        .join(records, (records.c.job_id == leases.c.job_id) & (records.c.shard == leases.c.shard))
        .where(leases.c.shard == shard),
    )
    counts[State.LEASED] = held - counts[State.COMMITTED]
    counts[State.DEAD] = yield from _count(
        portable,
        select(func.count()).where(
            records.c.outcome == literal(Outcome.DEAD.value, literal_execute=True),
            records.c.shard == shard,
        ),
    )
    return counts


def _count(portable: Portable, query: Any) -> Step[int]:
    ((count,),) = yield from portable.run(query)
    return int(count)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)

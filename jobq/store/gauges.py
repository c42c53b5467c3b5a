"""What is watched from outside: how much there is to do, and how old, at a price that is bounded.

Asked every few seconds for as long as the service lives, so no statement reads more rows of a table
than `most`, however many are there; what has ended is not counted, but for the dead, which have an
index of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, select, union_all

from jobq.protocol.states import Outcome, State
from jobq.protocol.views import WorkerStatus
from jobq.store.base import Store
from jobq.store.pauses import pauses
from jobq.store.portable import Portable, now, queue_of_line, seconds_between
from jobq.store.step import Step

LOOKS_PER_STATEMENT = 100
WITHOUT_QUEUE = (State.SCHEDULED, State.WAITING, State.AMBIGUOUS)
"""Their tables do not say the queue."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """How it stands with the queue. Numbers of jobs end at the bound they were counted to."""

    jobs: Mapping[tuple[State, str], int]
    """By state and queue; the queue is empty where the state's table does not say it."""
    oldest_due_s: Mapping[str, float]
    """Seconds since when the first job is due that waits in the queue."""
    overdue_s: float
    """Seconds since when the first of the scheduled jobs should have been promoted."""
    expired_leases: int
    paused: frozenset[str]
    workers: Mapping[str, int]
    """By their state: alive, lost."""
    revision: str


def gauges(store: Store, most: int) -> Step[Gauges]:
    """Look at it all."""
    portable = store.portable
    jobs = {(state, ""): 0 for state in (*WITHOUT_QUEUE, State.DEAD)}
    for state in WITHOUT_QUEUE:
        table = getattr(portable.tables, state.value)
        jobs[state, ""] = yield from _count(portable, _of(portable, table), most)
    jobs[State.DEAD, ""] = yield from _count(portable, _dead(portable), most)
    ready, oldest = yield from _ready(store, most)
    throttled, oldest_throttled = yield from _throttled(portable, most)
    jobs |= {(State.READY, queue): count for queue, count in ready.items()}
    jobs |= {(State.THROTTLED, queue): count for queue, count in throttled.items()}
    for queue, age_s in oldest_throttled.items():
        oldest[queue] = max(age_s, oldest.get(queue, 0.0))
    jobs |= yield from _leased(portable, most)
    scheduled, leases = portable.tables.scheduled, portable.tables.leases
    ((overdue_s,),) = yield from portable.run(
        _of(portable, scheduled, seconds_between(func.min(scheduled.c.run_at), now()).label("s"))
    )
    # Asked once: for a clock that each row might find changed, no index serves.
    at = select(now().label("at")).scalar_subquery()
    expired = _of(portable, leases).where(leases.c.lease_expires_at < at)
    return Gauges(
        jobs,
        oldest,
        max(0.0, overdue_s or 0.0),
        (yield from _count(portable, expired, most)),
        frozenset((yield from pauses(portable))),
        (yield from _workers(portable)),
        (yield from store.revision()) or "",
    )


def _of(portable: Portable, table: Any, *columns: Any) -> Select[Any]:
    return select(*columns or (literal(1).label("one"),)).where(table.c.shard == portable.shard)


def _count(portable: Portable, rows: Select[Any], most: int) -> Step[int]:
    ((count,),) = yield from portable.run(
        select(func.count()).select_from(rows.limit(most).subquery())
    )
    return int(count)


def _dead(portable: Portable) -> Select[Any]:
    records = portable.tables.commit_records
    # Spelt as the partial index has it, which a parameter would hide.
    is_dead = records.c.outcome == literal(Outcome.DEAD.value, literal_execute=True)
    return _of(portable, records).where(is_dead)


def _ready(store: Store, most: int) -> Step[tuple[dict[str, int], dict[str, float]]]:
    """How many in each queue, and since when the first of them is due.

    One look for each priority of each queue: the key's order is theirs, not that of time.
    """
    portable = store.portable
    ready = portable.tables.ready
    counts: dict[str, int] = {}
    oldest: dict[str, float] = {}
    lines = yield from store.ready_priorities((yield from store.ready_queues()))
    for first in range(0, len(lines), LOOKS_PER_STATEMENT):
        looks: list[Select[Any]] = []
        for queue, priority in lines[first : first + LOOKS_PER_STATEMENT]:
            here: list[ColumnElement[bool]] = [
                ready.c.shard == portable.shard,
                ready.c.queue == queue,
                ready.c.priority == priority,
            ]
            counted = select(literal(1).label("one")).where(*here).limit(most).subquery()
            due_at = select(func.min(ready.c.due_at)).where(*here).scalar_subquery()
            looks.append(
                select(
                    literal(queue).label("queue"),
                    select(func.count()).select_from(counted).scalar_subquery().label("count"),
                    seconds_between(due_at, now()).label("age_s"),
                )
            )
        for queue, count, age_s in (yield from portable.run(union_all(*looks))):
            if age_s is not None:  # else it was emptied just now
                counts[queue] = min(most, counts.get(queue, 0) + count)
                oldest[queue] = max(age_s, oldest.get(queue, 0.0))
    return counts, oldest


def _throttled(portable: Portable, most: int) -> Step[tuple[dict[str, int], dict[str, float]]]:
    throttled = portable.tables.throttled
    some = _of(portable, throttled, throttled.c.line, throttled.c.due_at).limit(most).subquery()
    queue = queue_of_line(some.c.line).label("queue")
    age_s = seconds_between(func.min(some.c.due_at), now())
    rows = yield from portable.run(
        select(queue, func.count(), age_s.label("age_s")).group_by(queue)
    )
    return {queue: count for queue, count, _ in rows}, {queue: age_s for queue, _, age_s in rows}


def _leased(portable: Portable, most: int) -> Step[dict[tuple[State, str], int]]:
    """There are no more leases than the workers can hold, so their jobs are looked up."""
    leases, records, jobs = (
        portable.tables.leases,
        portable.tables.commit_records,
        portable.tables.jobs,
    )
    some = _of(portable, leases, leases.c.shard, leases.c.job_id).limit(most).subquery()
    is_committed = records.c.job_id.is_not(None)
    rows = yield from portable.run(
        select(jobs.c.queue, is_committed.label("is_committed"), func.count())
        .select_from(some)
        .join(jobs, (jobs.c.id == some.c.job_id) & (jobs.c.shard == some.c.shard))
        .outerjoin(records, (records.c.job_id == some.c.job_id) & (records.c.shard == some.c.shard))
        .group_by(jobs.c.queue, is_committed)
    )
    return {
        (State.COMMITTED if committed else State.LEASED, queue): count
        for queue, committed, count in rows
    }


def _workers(portable: Portable) -> Step[dict[str, int]]:
    """Those that did not say goodbye."""
    workers = portable.tables.workers
    rows = yield from portable.run(
        _of(
            portable,
            workers,
            workers.c.started_at,
            workers.c.seen_at,
            workers.c.about,
            seconds_between(workers.c.seen_at, now()).label("silent_s"),
        ).where(workers.c.stopped_at.is_(None))
    )
    counts = {"alive": 0, "lost": 0}
    for started_at, seen_at, about, silent_s in rows:
        worker = WorkerStatus.read(
            "", started_at, seen_at, None, about, leases=0, silent_s=silent_s
        )
        counts[worker.state] += 1
    return counts

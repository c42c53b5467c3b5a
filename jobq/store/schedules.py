"""The steps of periodic jobs.

Whoever makes the jobs of a schedule holds its row: it looks for the ticks that have their jobs in
a later statement, and the unique key of `ticks` would refuse a second job for one even so. The
tick, its job and the schedule's next time are one transaction.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select, update

from jobq.errors import InvalidOption, ScheduleNotFound
from jobq.protocol.schedule import Missed, Schedule, ticks_due
from jobq.protocol.values import JobRequest
from jobq.store.portable import Portable, now
from jobq.store.step import Row, Step

if TYPE_CHECKING:
    from jobq.store.base import Store

logger = logging.getLogger("jobq.worker")

SCHEDULES_PER_TURN = 20
TICKS_PER_TURN = 100
TICKS_KEPT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """A schedule as the database has it."""

    schedule: Schedule
    next_tick_at: datetime | None
    """When its next job is due; None if it is paused, or no tick comes any more."""
    paused_at: datetime | None


def declare(portable: Portable, schedules: Sequence[Schedule]) -> Step[None]:
    """Write what the code declares, unless the database has it from this very declaration: what was
    changed at run time holds until the code changes."""
    table = portable.tables.schedules
    for schedule in sorted(schedules, key=lambda one: one.name):
        args = schedule.request.args_digest or schedule.request.args
        declared = json.dumps({**_columns(schedule), "args": args})
        # Whoever came first inserts it; the others wait for that here, and find it.
        row = {"shard": portable.shard, "name": schedule.name, **_columns(schedule)}
        yield from portable.run(
            portable.insert(table)
            .values(**row, next_tick_at=None, paused_at=None, declared=None)
            .on_conflict_do_nothing()
        )
        ((known, at),) = yield from portable.run(
            select(table.c.declared, now().label("now"))
            .where(*_named(portable, schedule.name))
            .with_for_update()
        )
        if known != declared:
            yield from _write(portable, schedule, at, declared=declared)


def all_schedules(portable: Portable) -> Step[list[ScheduleStatus]]:
    """Every schedule, by its name."""
    table = portable.tables.schedules
    rows = yield from portable.run(
        select(*_row(table)).where(table.c.shard == portable.shard).order_by(table.c.name)
    )
    return [_status(row) for row in rows]


def edit(portable: Portable, name: str, **changes: Any) -> Step[ScheduleStatus]:
    """Change a schedule; its next tick is the first after now. Raises ScheduleNotFound,
    InvalidOption."""
    status, at = yield from _hold(portable, name)
    was = status.schedule
    changed = Schedule(
        was.name,
        changes.get("cron", was.cron),
        changes.get("request", was.request),
        changes.get("timezone", was.timezone),
        Missed(changes.get("missed", was.missed)),
    )
    yield from _write(portable, changed, at)
    return (yield from _hold(portable, name))[0]


def pause(portable: Portable, name: str) -> Step[None]:
    """Have it make no jobs until it is resumed. Raises ScheduleNotFound."""
    status, at = yield from _hold(portable, name)
    if status.paused_at is None:
        table = portable.tables.schedules
        change = update(table).where(*_named(portable, name)).values(paused_at=at)
        yield from portable.run(change)


def resume(portable: Portable, name: str) -> Step[None]:
    """Have it go on with its first tick after now: those it was paused for get no jobs, whatever
    the policy for missed ones. Raises ScheduleNotFound."""
    status, at = yield from _hold(portable, name)
    if status.paused_at is not None:
        yield from _write(portable, status.schedule, at, paused_at=None)


def remove(portable: Portable, name: str) -> Step[None]:
    """Delete a schedule and what is known of its ticks; its jobs stay. Raises ScheduleNotFound."""
    yield from _hold(portable, name)
    tables = portable.tables
    ticks = tables.ticks
    ours = (ticks.c.shard == portable.shard, ticks.c.schedule == name)
    yield from portable.run(delete(ticks).where(*ours))
    yield from portable.run(delete(tables.schedules).where(*_named(portable, name)))


def run_now(store: Store, name: str) -> Step[int]:
    """Enqueue its job, beside its ticks; return the job's id. Raises ScheduleNotFound."""
    status, _ = yield from _hold(store.portable, name)
    (job_id,) = yield from store.enqueue([status.schedule.request])
    return job_id


def make_due(store: Store) -> Step[float | None]:
    """Enqueue the jobs of all ticks that are due; return the seconds until the next tick, None if
    there is none."""
    portable = store.portable
    table = portable.tables.schedules
    is_live = (table.c.shard == portable.shard, table.c.paused_at.is_(None))
    rows = yield from portable.run(
        select(*_row(table), now().label("now"))
        .where(*is_live, table.c.next_tick_at <= now())
        .order_by(table.c.next_tick_at)
        .limit(SCHEDULES_PER_TURN)
        .with_for_update(skip_locked=True)
    )
    for *row, at in rows:
        yield from _make_ticks(store, row, at)
    ((next_tick_at, at),) = yield from portable.run(
        select(func.min(table.c.next_tick_at).label("next"), now().label("now")).where(*is_live)
    )
    return None if next_tick_at is None else max(0.0, (next_tick_at - at).total_seconds())


def _make_ticks(store: Store, row: Sequence[Any], at: datetime) -> Step[None]:
    portable = store.portable
    try:
        status = _status(row)
        assert status.next_tick_at is not None
        ticks = ticks_due(status.schedule, status.next_tick_at, at, TICKS_PER_TURN)
    except InvalidOption as error:
        # A row that was written by other means; the other schedules go on.
        logger.error(
            "a schedule is not understood, and stops: %s",
            error,
            extra={"schedule": row[0], "error_message": str(error)},
        )
        table = portable.tables.schedules
        stop = update(table).where(*_named(portable, row[0])).values(next_tick_at=None)
        yield from portable.run(stop)
        return
    name = status.schedule.name
    table = portable.tables.ticks
    ours = (table.c.shard == portable.shard, table.c.schedule == name)
    if ticks.due:
        made = yield from portable.run(
            select(table.c.tick_at).where(*ours, table.c.tick_at >= ticks.due[0])
        )
        have_jobs = {tick for (tick,) in made}
        if due := [tick for tick in ticks.due if tick not in have_jobs]:
            job_ids = yield from store.enqueue([status.schedule.request] * len(due))
            new = [
                {"shard": portable.shard, "schedule": name, "tick_at": tick, "job_id": job_id}
                for tick, job_id in zip(due, job_ids, strict=True)
            ]
            yield from portable.run(portable.insert(table).values(new))
        yield from portable.run(delete(table).where(*ours, table.c.tick_at < at - TICKS_KEPT))
    schedules = portable.tables.schedules
    advance = update(schedules).where(*_named(portable, name))
    yield from portable.run(advance.values(next_tick_at=ticks.next_tick_at))


def _hold(portable: Portable, name: str) -> Step[tuple[ScheduleStatus, datetime]]:
    """Lock a schedule; return it and the time."""
    table = portable.tables.schedules
    rows = yield from portable.run(
        select(*_row(table), now().label("now")).where(*_named(portable, name)).with_for_update()
    )
    if not rows:
        raise ScheduleNotFound(f"there is no schedule {name!r} in this database")
    *row, at = rows[0]
    return _status(row), at


def _write(portable: Portable, schedule: Schedule, at: datetime, **more: object) -> Step[None]:
    table = portable.tables.schedules
    change = update(table).where(*_named(portable, schedule.name))
    next_tick_at = next(schedule.ticks_after(at), None)
    yield from portable.run(change.values(**_columns(schedule), next_tick_at=next_tick_at, **more))


def _named(portable: Portable, name: str) -> tuple[Any, Any]:
    table = portable.tables.schedules
    return (table.c.shard == portable.shard, table.c.name == name)


def _columns(schedule: Schedule) -> dict[str, Any]:
    request = schedule.request
    return {
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "missed": schedule.missed.value,
        "task": request.task,
        "args": request.args,
        "queue": request.queue,
        "priority": request.priority,
        "max_attempts": request.max_attempts,
        "line": request.line,
    }


def _row(table: Any) -> list[Any]:
    names = (
        "name cron timezone missed task args queue priority max_attempts line next_tick_at "
        "paused_at"
    )
    return [table.c[name] for name in names.split()]


def _status(row: Row) -> ScheduleStatus:
    name, cron, timezone, missed, task, args, queue, priority, max_attempts, line, *times = row
    request = JobRequest(task, args, queue, priority, max_attempts, None, 0.0, line)
    next_tick_at, paused_at = times
    return ScheduleStatus(
        Schedule(name, cron, request, timezone, Missed(missed)),
        None if paused_at else next_tick_at,
        paused_at,
    )

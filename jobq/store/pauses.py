"""Pausing queues, and what an operator sees of them.

A paused queue has a row here, which every claim asks for; to resume is to delete it, or to let its
time pass. No claim that begins after the pause was committed takes a job of the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, delete, func, or_, select

from jobq.protocol.limits import Line
from jobq.store.portable import Portable, now
from jobq.store.step import Step


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """A queue that has due jobs or is paused."""

    name: str
    ready: int
    """Due jobs that wait for a worker."""
    throttled: int
    """Due jobs that wait for their limits."""
    oldest_due_at: datetime | None
    """Since when the first of them is due."""
    paused_at: datetime | None
    """None when it is not paused."""
    resumes_at: datetime | None
    """When its pause ends by itself; None if somebody has to resume it."""


@dataclass(frozen=True, slots=True)
class Pause:
    paused_at: datetime
    resumes_at: datetime | None


def pause(portable: Portable, queue: str, resumes_at: datetime | None) -> Step[None]:
    """Pause the queue; of a queue that is paused already, set when it resumes."""
    table = portable.tables.pauses
    row = portable.insert(table).values(
        shard=portable.shard, queue=queue, paused_at=now(), resumes_at=resumes_at
    )
    yield from portable.run(
        row.on_conflict_do_update(
            index_elements=["shard", "queue"],
            set_={
                # Of a pause whose time is over this is another.
                "paused_at": case((table.c.resumes_at <= now(), now()), else_=table.c.paused_at),
                "resumes_at": resumes_at,
            },
        )
    )


def resume(portable: Portable, queue: str) -> Step[bool]:
    """End the queue's pause; return whether it was paused."""
    was_paused = queue in (yield from pauses(portable))
    table = portable.tables.pauses
    yield from portable.run(
        delete(table).where(table.c.shard == portable.shard, table.c.queue == queue)
    )
    return was_paused


def pauses(portable: Portable) -> Step[dict[str, Pause]]:
    """Return the queues that are paused now."""
    table = portable.tables.pauses
    rows = yield from portable.run(
        select(table.c.queue, table.c.paused_at, table.c.resumes_at).where(
            table.c.shard == portable.shard,
            or_(table.c.resumes_at.is_(None), table.c.resumes_at > now()),
        )
    )
    return {queue: Pause(paused_at, resumes_at) for queue, paused_at, resumes_at in rows}


def all_queues(portable: Portable) -> Step[list[QueueStatus]]:
    """Every queue with due jobs or a pause, by its name."""
    paused = yield from pauses(portable)
    ready = portable.tables.ready
    rows = yield from portable.run(
        select(ready.c.queue, func.count(), func.min(ready.c.due_at).label("due_at"))
        .where(ready.c.shard == portable.shard)
        .group_by(ready.c.queue)
    )
    in_ready = {queue: (count, due_at) for queue, count, due_at in rows}
    throttled = portable.tables.throttled
    lines = yield from portable.run(
        select(throttled.c.line, func.count(), func.min(throttled.c.due_at).label("due_at"))
        .where(throttled.c.shard == portable.shard)
        .group_by(throttled.c.line)
    )
    in_lines: dict[str, list[tuple[int, datetime]]] = {}
    for text, count, due_at in lines:
        in_lines.setdefault(Line.read(text).queue, []).append((count, due_at))
    return [
        _status(queue, in_ready.get(queue), in_lines.get(queue, []), paused.get(queue))
        for queue in sorted({*in_ready, *in_lines, *paused})
    ]


def _status(
    queue: str,
    ready: tuple[int, datetime] | None,
    lines: Sequence[tuple[int, datetime]],
    pause: Pause | None,
) -> QueueStatus:
    due_ats = [due_at for _, due_at in ([ready] if ready else []) + list(lines)]
    return QueueStatus(
        queue,
        ready[0] if ready else 0,
        sum(count for count, _ in lines),
        min(due_ats, default=None),
        pause.paused_at if pause else None,
        pause.resumes_at if pause else None,
    )

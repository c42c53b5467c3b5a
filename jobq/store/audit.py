"""Who did what by hand, written by the transaction that did it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar
from uuid import uuid4

from sqlalchemy import select

from jobq.protocol.views import AuditedAction
from jobq.store.portable import Portable, now
from jobq.store.step import Step

T = TypeVar("T")


def audited(
    portable: Portable, actor: str, action: str, subject: str, details: str | None, step: Step[T]
) -> Step[T]:
    """The step, and a row about it."""
    done = yield from step
    table = portable.tables.audit
    row = portable.insert(table).values(
        id=uuid4().hex,
        shard=portable.shard,
        done_at=now(),
        actor=actor,
        action=action,
        subject=subject,
        details=details if done is not False else f"{details or ''} (it changed nothing)".strip(),
    )
    yield from portable.run(row)
    return done


def audit(portable: Portable, *, before: datetime | None, limit: int) -> Step[list[AuditedAction]]:
    """What was done, the last first, from before a time on."""
    table = portable.tables.audit
    where = [table.c.shard == portable.shard]
    if before is not None:
        where.append(table.c.done_at < before)
    rows = yield from portable.run(
        select(table.c.done_at, table.c.actor, table.c.action, table.c.subject, table.c.details)
        .where(*where)
        .order_by(table.c.done_at.desc())
        .limit(limit)
    )
    return [AuditedAction(at.astimezone(UTC), *told) for at, *told in rows]

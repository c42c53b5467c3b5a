"""Claiming jobs under limits, which are never overshot.

A limited job waits in `throttled`, in the line that its queue and its keys name. To claim from a
line is to hold the rows of all its keys (those that another claim holds are skipped, not waited
for), to count in a later statement what is leased under them, and to take no more than is free.
Leases under a key are only made by who holds its row, and all who end one leave a slot that no
longer counts: so a count can only be too high.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Text, Uuid, cast, delete, exists, func, literal, select, type_coerce

from jobq.protocol.limits import Bucket, Key, Limit, Line, allocate, name_of
from jobq.protocol.values import ClaimedJob
from jobq.store.pauses import pauses
from jobq.store.portable import Portable, now, seconds_later
from jobq.store.rows import claimed_job
from jobq.store.step import Row, Step

LINES_PER_TURN = 50
"""So many lines are looked at in one turn; the next turn goes on behind them."""
BUSY_S = 0.02
"""When to look again at keys under which somebody else claims."""
FULL_S = 0.1
"""When to look again at keys whose leases are all taken, by whichever worker."""


@dataclass(frozen=True, slots=True)
class LimitedClaim:
    """What a worker asks of the throttled jobs."""

    worker: str
    queues: Sequence[str] | None
    """Those it serves; None for all."""
    tasks: Sequence[str]
    limit: int
    lease_s: float
    after: str = ""
    """The line behind which to begin; each line has its turn."""


@dataclass(frozen=True, slots=True)
class LimitedJobs:
    """What came of it."""

    claimed: list[ClaimedJob] = field(default_factory=list)
    after: str = ""
    """Where the next claim is to begin."""
    again_s: float | None = None
    """When another look may find something that limits held back now; None if nothing waits."""


def declare(portable: Portable, limits: Sequence[Limit]) -> Step[None]:
    """Write the limits as the code has them."""
    table = portable.tables.limits
    for limit in sorted(limits, key=lambda one: one.name):
        told = {
            "concurrency": limit.concurrency,
            "per_second": limit.per_second,
            "most_tokens": limit.most_tokens,
        }
        insert = portable.insert(table).values(shard=portable.shard, name=limit.name, **told)
        yield from portable.run(
            insert.on_conflict_do_update(index_elements=["shard", "name"], set_=told)
        )


def leave_line(portable: Portable, job_id: int) -> Step[int | None]:
    """Take a throttled job out of its line; return its token, None if it is in no line."""
    table = portable.tables.throttled
    rows = yield from portable.run(
        delete(table)
        .where(table.c.shard == portable.shard, table.c.job_id == job_id)
        .returning(table.c.token)
    )
    return int(rows[0][0]) if rows else None


def claim_limited(portable: Portable, claim: LimitedClaim) -> Step[LimitedJobs]:
    """Lease up to `claim.limit` of the jobs whose limits have room.

    Lines are served in turn, one job of each before a second; within one, by priority (smaller
    first), then by when the job became due.
    """
    if claim.limit <= 0:
        return LimitedJobs(after=claim.after, again_s=0.0)
    looked = yield from _lines(portable, claim.after)
    after = looked[-1].text if len(looked) == LINES_PER_TURN else ""
    paused = (yield from pauses(portable)) if looked else {}
    lines = [
        line
        for line in looked
        if line.queue not in paused and (claim.queues is None or line.queue in claim.queues)
    ]
    if not lines:
        return LimitedJobs(after=after, again_s=0.0 if after else None)
    wanted = sorted({key for line in lines for key in line.keys})
    yield from _make_keys(portable, wanted)
    keys = yield from _hold_keys(portable, wanted)
    taken: list[Row] = []
    has_more = bool(after)
    by_text = {line.text: line for line in lines}
    for text, count in allocate(lines, keys, claim.limit).items():
        found = yield from _take(portable, text, claim.tasks, count)
        taken += [(*row, by_text[text]) for row in found]
        has_more = has_more or len(found) == count
    claimed = (yield from _lease(portable, claim, taken, keys)) if taken else []
    again_s = 0.0 if taken and has_more else _again_s(lines, keys)
    return LimitedJobs(claimed, after, again_s)


def _lines(portable: Portable, after: str) -> Step[list[Line]]:
    """The next lines with jobs: a probe of the index for each, however long they are."""
    table = portable.tables.throttled
    first = select(func.min(table.c.line).label("line")).where(
        table.c.shard == portable.shard, table.c.line > after
    )
    found = first.cte("lines", recursive=True)
    following = (
        select(func.min(table.c.line))
        .where(table.c.shard == portable.shard, table.c.line > found.c.line)
        .scalar_subquery()
    )
    lines = found.union_all(select(following).where(found.c.line.is_not(None)))
    rows = yield from portable.run(
        select(lines.c.line).where(lines.c.line.is_not(None)).limit(LINES_PER_TURN)
    )
    return [Line.read(text) for (text,) in rows]


def _make_keys(portable: Portable, wanted: Sequence[str]) -> Step[None]:
    table = portable.tables.limit_keys
    ours = (table.c.shard == portable.shard, table.c.key.in_(wanted))
    there = {key for (key,) in (yield from portable.run(select(table.c.key).where(*ours)))}
    if new := [key for key in wanted if key not in there]:
        # In the order of the keys, so that two who make the same ones wait for one another in turn.
        rows = [{"shard": portable.shard, "key": key, "counted_at": now()} for key in new]
        yield from portable.run(portable.insert(table).values(rows).on_conflict_do_nothing())


def _hold_keys(portable: Portable, wanted: Sequence[str]) -> Step[dict[str, Key]]:
    """Lock what keys nobody else has locked; what is counted under them is read afterwards."""
    table, limits, slots = (
        portable.tables.limit_keys,
        portable.tables.limits,
        portable.tables.slots,
    )
    locked = yield from portable.run(
        select(table.c.key)
        .where(table.c.shard == portable.shard, table.c.key.in_(wanted))
        .order_by(table.c.key)
        .with_for_update(skip_locked=True)
    )
    held = [key for (key,) in locked]
    lease = portable.tables.leases
    is_leased = exists().where(
        lease.c.shard == slots.c.shard,
        lease.c.job_id == slots.c.job_id,
        lease.c.token == slots.c.token,
    )
    yield from portable.run(
        delete(slots).where(slots.c.shard == portable.shard, slots.c.key.in_(held), ~is_leased)
    )
    counted = (
        select(func.count())
        .where(slots.c.shard == table.c.shard, slots.c.key == table.c.key)
        .scalar_subquery()
    )
    rows = yield from portable.run(
        select(table.c.key, table.c.tokens, table.c.counted_at, now().label("now"), counted).where(
            table.c.shard == portable.shard, table.c.key.in_(held)
        )
    )
    names = sorted({name_of(key) for key in held})
    declared = yield from portable.run(
        select(
            limits.c.name, limits.c.concurrency, limits.c.per_second, limits.c.most_tokens
        ).where(limits.c.shard == portable.shard, limits.c.name.in_(names))
    )
    bounds: dict[str, Any] = {name: rest for name, *rest in declared}
    keys = {}
    for key, tokens, counted_at, read_at, leased in rows:
        if name_of(key) not in bounds:
            continue  # nobody has said yet what it allows
        concurrency, per_second, most = bounds[name_of(key)]
        bucket = None
        if per_second is not None:
            age_s = (read_at - counted_at).total_seconds()
            bucket = Bucket(per_second, most, most if tokens is None else tokens, age_s)
        keys[key] = Key(concurrency, leased, bucket)
    return keys


def _take(portable: Portable, line: str, tasks: Sequence[str], count: int) -> Step[list[Row]]:
    table = portable.tables.throttled
    rows = yield from portable.run(
        select(table.c.job_id, table.c.due_at, table.c.attempts, table.c.token)
        .where(table.c.shard == portable.shard, table.c.line == line, table.c.task.in_(tasks))
        .order_by(table.c.priority, table.c.due_at, table.c.job_id)
        .limit(count)
        .with_for_update(skip_locked=True)
    )
    return rows


def _lease(
    portable: Portable, claim: LimitedClaim, taken: Sequence[Row], keys: dict[str, Key]
) -> Step[list[ClaimedJob]]:
    tables, shard = portable.tables, portable.shard
    job_ids = [row[0] for row in taken]
    throttled = tables.throttled
    yield from portable.run(
        delete(throttled).where(throttled.c.shard == shard, throttled.c.job_id.in_(job_ids))
    )
    expires_at = seconds_later(now(), literal(claim.lease_s))
    leases = [
        {
            "shard": shard,
            "job_id": job_id,
            "token": token + 1,
            "attempt": attempts + 1,
            "worker": claim.worker,
            "due_at": due_at,
            "acquired_at": now(),
            "lease_expires_at": expires_at,
        }
        for job_id, due_at, attempts, token, _ in taken
    ]
    yield from portable.run(portable.insert(tables.leases).values(leases))
    slots = [
        {"shard": shard, "key": key, "job_id": job_id, "token": token + 1}
        for job_id, _, _, token, line in taken
        for key in line.keys
    ]
    yield from portable.run(portable.insert(tables.slots).values(slots))
    yield from _spend(portable, [slot["key"] for slot in slots], keys)
    job, lease = tables.jobs, tables.leases
    rows = yield from portable.run(
        select(
            job.c.id,
            lease.c.token,
            job.c.queue,
            job.c.task,
            cast(job.c.args, Text),
            job.c.priority,
            lease.c.due_at,
            lease.c.attempt,
            job.c.max_attempts,
            type_coerce(job.c.idempotency_key, Uuid()),
            job.c.created_at,
            lease.c.acquired_at,
            job.c.headers,
        )
        .join_from(job, lease, (lease.c.job_id == job.c.id) & (lease.c.shard == job.c.shard))
        .where(job.c.shard == shard, job.c.id.in_(job_ids))
    )
    by_id: dict[int, Any] = {row[0]: row for row in rows}
    return [claimed_job(by_id[job_id]) for job_id in job_ids]


def _spend(portable: Portable, spent: Sequence[str], keys: dict[str, Key]) -> Step[None]:
    """Take from the buckets what was begun; a bucket is written when it is used, never to fill."""
    table = portable.tables.limit_keys
    rows = [
        {
            "shard": portable.shard,
            "key": key,
            "tokens": bucket.filled - spent.count(key),
            "counted_at": now(),
        }
        for key in sorted(set(spent))
        if (bucket := keys[key].bucket) is not None
    ]
    if rows:
        insert = portable.insert(table).values(rows)
        yield from portable.run(
            insert.on_conflict_do_update(
                index_elements=["shard", "key"],
                set_={
                    "tokens": insert.excluded.tokens,
                    "counted_at": insert.excluded.counted_at,
                },
            )
        )


def _again_s(lines: Sequence[Line], keys: dict[str, Key]) -> float:
    """How long until some line may have room: the soonest of them, each waiting for its slowest
    key."""

    def wait_s(key: str) -> float:
        if key not in keys:
            return BUSY_S
        known = keys[key]
        is_full = known.concurrency is not None and known.held >= known.concurrency
        refill_s = known.bucket.until_next_s() if known.bucket else 0.0
        return max(FULL_S if is_full else 0.0, refill_s)

    return max(BUSY_S, min(max(map(wait_s, line.keys)) for line in lines))

"""Jobs that wait for other jobs, in the place `waiting`.

Each prerequisite of a waiting job is a row of `dependencies`, which is taken away when that job has
its fate. Whoever does so holds the waiting job's row: so one party at a time counts what is left,
and the last to come finds nothing left, whoever it is. A row that somebody else holds is passed
over, and looked at again by the next sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, literal, select, tuple_

from jobq.errors import InvalidOption, JobNotFound
from jobq.protocol.flow import Verdict, When, verdict, when_of
from jobq.protocol.states import Outcome
from jobq.protocol.values import JobRequest
from jobq.store.portable import Portable, now, seconds_later
from jobq.store.step import Step

if TYPE_CHECKING:
    from jobq.store.base import Store

ROWS_PER_STATEMENT = 1_000


def enqueue_flow(store: Store, requests: Sequence[JobRequest]) -> Step[list[int]]:
    """Enqueue the jobs, those that wait for others with them; return their ids.

    Raises InvalidOption; JobNotFound when a job that is to be waited for does not exist.
    """
    for position, request in enumerate(requests):
        _check(position, request)
    portable = store.portable
    existing = sorted({job_id for request in requests for job_id in request.after if job_id > 0})
    yield from _hold_jobs(portable, existing)
    ended = yield from _outcomes(portable, existing)
    waits = [bool(request.after) and not _may_run(request, ended) for request in requests]
    job_ids: list[int] = [0] * len(requests)
    for is_waiting, enqueue in ((False, store.enqueue), (True, store.enqueue_apart)):
        positions = [position for position, its in enumerate(waits) if its is is_waiting]
        for first in range(0, len(positions), ROWS_PER_STATEMENT):
            some = positions[first : first + ROWS_PER_STATEMENT]
            made = yield from enqueue([requests[position] for position in some])
            for position, job_id in zip(some, made, strict=True):
                job_ids[position] = job_id
    waiting = {
        position: (job_ids[position], request)
        for position, request in enumerate(requests)
        if waits[position]
    }
    yield from _put(portable, [*waiting.values()])
    edges = sorted(
        (needed if needed > 0 else job_ids[position + needed], job_id)
        for position, (job_id, request) in waiting.items()
        for needed in set(request.after)
    )
    for first in range(0, len(edges), ROWS_PER_STATEMENT):
        rows = [
            {"shard": portable.shard, "needs_job_id": needed, "job_id": job_id}
            for needed, job_id in edges[first : first + ROWS_PER_STATEMENT]
        ]
        insert = portable.insert(portable.tables.dependencies).values(rows)
        yield from portable.run(insert.on_conflict_do_nothing())
    return job_ids


def _check(position: int, request: JobRequest) -> None:
    when_of(request.when)
    if request.after and request.unique is not None:
        raise InvalidOption(
            f"a job of task {request.task!r} is unique and waits for other jobs: the job that is "
            "there already would not wait for them. Leave out one of the two"
        )
    for offset in request.after:
        if offset == 0 or position + min(offset, 0) < 0:
            raise InvalidOption(
                f"after={offset}: a job waits for the id of a job, or for one that stands before "
                "it in the same list, counted backwards (-1, -2 and so on)"
            )


def _hold_jobs(portable: Portable, job_ids: Sequence[int]) -> Step[None]:
    """Keep the jobs from being pruned until the transaction ends."""
    jobs = portable.tables.jobs
    for first in range(0, len(job_ids), ROWS_PER_STATEMENT):
        asked = job_ids[first : first + ROWS_PER_STATEMENT]
        rows = yield from portable.run(
            select(jobs.c.id)
            .where(jobs.c.shard == portable.shard, jobs.c.id.in_(asked))
            .order_by(jobs.c.id)
            .with_for_update(read=True, key_share=True)
        )
        if missing := set(asked) - {job_id for (job_id,) in rows}:
            raise JobNotFound(
                f"there is no job {min(missing)} in this database to wait for: it was pruned, or "
                "its transaction is not committed"
            )


def _outcomes(portable: Portable, job_ids: Sequence[int]) -> Step[dict[int, Outcome]]:
    """Return the fates of those that have one. They are held: no dead job comes back meanwhile."""
    records = portable.tables.commit_records
    outcomes: dict[int, Outcome] = {}
    for first in range(0, len(job_ids), ROWS_PER_STATEMENT):
        asked = job_ids[first : first + ROWS_PER_STATEMENT]
        rows = yield from portable.run(
            select(records.c.job_id, records.c.outcome).where(
                records.c.shard == portable.shard, records.c.job_id.in_(asked)
            )
        )
        outcomes.update((job_id, Outcome(outcome)) for job_id, outcome in rows)
    return outcomes


def _may_run(request: JobRequest, ended: dict[int, Outcome]) -> bool:
    """Whether all that it waits for has ended so that it runs. If it is to be cancelled instead,
    that is left to the sweep: whoever enqueues records no fates."""
    if not ended.keys() >= set(request.after):
        return False
    outcomes = [ended[job_id] for job_id in request.after]
    return verdict(When(request.when), outcomes, is_last=True) is Verdict.RUN


def _put(portable: Portable, waiting: Sequence[tuple[int, JobRequest]]) -> Step[None]:
    """Put the jobs, which this transaction has enqueued apart, into `waiting`."""
    for first in range(0, len(waiting), ROWS_PER_STATEMENT):
        rows = [
            {
                "shard": portable.shard,
                "job_id": job_id,
                "runs_when": request.when,
                "run_at": request.run_at,
                "delay_s": float(request.delay_s),
                "token": 0,
            }
            for job_id, request in waiting[first : first + ROWS_PER_STATEMENT]
        ]
        yield from portable.run(portable.insert(portable.tables.waiting).values(rows))


def leave_waiting(portable: Portable, job_id: int) -> Step[int | None]:
    """Take the job out of the place; return its token, None when it is not here."""
    tables = portable.tables
    rows = yield from portable.run(
        delete(tables.waiting)
        .where(tables.waiting.c.shard == portable.shard, tables.waiting.c.job_id == job_id)
        .returning(tables.waiting.c.token)
    )
    if not rows:
        return None
    yield from _forget_edges(portable, [job_id])
    return int(rows[0][0])


def sweep(portable: Portable, after: int) -> Step[tuple[int, int | None]]:
    """Look at the next dependencies, by the jobs that are waited for, from the one after `after`
    on. Return how many waiting jobs went on, and where the next sweep begins: None when there are
    no dependencies at all."""
    edges, records = portable.tables.dependencies, portable.tables.commit_records
    looked = (
        select(edges.c.needs_job_id)
        .where(edges.c.shard == portable.shard, edges.c.needs_job_id > after)
        .order_by(edges.c.needs_job_id, edges.c.job_id)
        .limit(ROWS_PER_STATEMENT)
        .subquery()
    )
    rows = yield from portable.run(
        select(looked.c.needs_job_id, records.c.outcome)
        .distinct()
        .select_from(looked)
        .outerjoin(
            records,
            and_(records.c.shard == portable.shard, records.c.job_id == looked.c.needs_job_id),
        )
        .order_by(looked.c.needs_job_id)
    )
    if not rows:
        return 0, (0 if after else None)
    ended = [needed for needed, outcome in rows if outcome is not None]
    released = (yield from release_after(portable, ended)) if ended else 0
    return released, rows[-1][0]


def release_after(portable: Portable, job_ids: Sequence[int]) -> Step[int]:
    """Have those go on that waited for these jobs, of which some have ended; return how many did.

    To go on is to be due, or to be cancelled.
    """
    tables = portable.tables
    edges, waiting, records = tables.dependencies, tables.waiting, tables.commit_records
    rows = yield from portable.run(
        select(edges.c.job_id)
        .distinct()
        .where(edges.c.shard == portable.shard, edges.c.needs_job_id.in_(job_ids))
        .limit(ROWS_PER_STATEMENT)
    )
    if not rows:
        return 0
    held = yield from portable.run(
        select(
            waiting.c.job_id,
            waiting.c.runs_when,
            waiting.c.run_at,
            waiting.c.delay_s,
            waiting.c.token,
        )
        .where(waiting.c.shard == portable.shard, waiting.c.job_id.in_([row[0] for row in rows]))
        .order_by(waiting.c.job_id)
        .with_for_update(skip_locked=True)
    )
    if not held:
        return 0
    # After the locks: what others took away before is gone, and nobody takes more meanwhile.
    found = yield from portable.run(
        select(edges.c.job_id, edges.c.needs_job_id, records.c.outcome)
        .select_from(edges)
        .join(
            records,
            and_(records.c.shard == edges.c.shard, records.c.job_id == edges.c.needs_job_id),
        )
        .where(
            edges.c.shard == portable.shard,
            edges.c.needs_job_id.in_(job_ids),
            edges.c.job_id.in_([row[0] for row in held]),
        )
    )
    outcomes: dict[int, list[Outcome]] = {}
    for job_id, _, outcome in found:
        outcomes.setdefault(job_id, []).append(Outcome(outcome))
    if not outcomes:
        return 0
    yield from portable.run(
        delete(edges).where(
            edges.c.shard == portable.shard,
            tuple_(edges.c.needs_job_id, edges.c.job_id).in_(
                [(needed, job_id) for job_id, needed, _ in found]
            ),
        )
    )
    left = yield from portable.run(
        select(edges.c.job_id)
        .distinct()
        .where(edges.c.shard == portable.shard, edges.c.job_id.in_(list(outcomes)))
    )
    still_waits = {job_id for (job_id,) in left}
    verdicts = {
        row[0]: verdict(When(row[1]), outcomes[row[0]], is_last=row[0] not in still_waits)
        for row in held
        if row[0] in outcomes
    }
    runs = [row for row in held if verdicts.get(row[0]) is Verdict.RUN]
    cancelled = [row for row in held if verdicts.get(row[0]) is Verdict.CANCEL]
    decided = [row[0] for row in (*runs, *cancelled)]
    if not decided:
        return 0
    yield from portable.run(
        delete(waiting).where(waiting.c.shard == portable.shard, waiting.c.job_id.in_(decided))
    )
    yield from _forget_edges(portable, decided)
    if runs:
        places = [
            {
                "shard": portable.shard,
                "job_id": job_id,
                "run_at": run_at or seconds_later(now(), literal(delay_s)),
                "attempts": 0,
                "token": token,
            }
            for job_id, _, run_at, delay_s, token in runs
        ]
        yield from portable.run(portable.insert(tables.scheduled).values(places))
    if cancelled:
        fates = [
            {
                "shard": portable.shard,
                "job_id": row[0],
                "outcome": Outcome.CANCELLED.value,
                "token": row[-1],
                "recorded_at": now(),
            }
            for row in cancelled
        ]
        yield from portable.run(portable.insert(records).values(fates))
    return len(decided)


def waited_for(portable: Portable, job_ids: Sequence[int]) -> Step[set[int]]:
    """Return those of the jobs for which others still wait."""
    edges = portable.tables.dependencies
    rows = yield from portable.run(
        select(edges.c.needs_job_id)
        .distinct()
        .where(edges.c.shard == portable.shard, edges.c.needs_job_id.in_(job_ids))
    )
    return {job_id for (job_id,) in rows}


def _forget_edges(portable: Portable, job_ids: Sequence[int]) -> Step[None]:
    edges = portable.tables.dependencies
    yield from portable.run(
        delete(edges).where(edges.c.shard == portable.shard, edges.c.job_id.in_(job_ids))
    )

"""Enqueueing unique jobs.

A key is one row, locked by the insert that finds it: of many enqueuers at once one goes first, and
the others wait for its transaction. Where the key's job is, is looked up in a later statement, so
what the one before committed is seen. Nothing is written when a job ends: a key whose job no longer
keeps others away is taken over by the next that asks for it. Only enqueuers and pruners touch keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, insert, literal, select

from jobq.errors import JobExists
from jobq.protocol.states import Outcome
from jobq.protocol.unique import Holder, OnConflict, is_held
from jobq.protocol.values import JobRequest
from jobq.store.in_line import take_out
from jobq.store.portable import Portable, now, seconds_later
from jobq.store.step import Step

if TYPE_CHECKING:
    from jobq.store.base import Store

JOBS_PER_STATEMENT = 1_000


def enqueue_unique(store: Store, requests: Sequence[JobRequest]) -> Step[list[tuple[int, bool]]]:
    """Enqueue the jobs, those with a key if no other has it; return their ids, in the order of the
    requests, each with whether the job is new.

    Of several with one key the first counts. Raises JobExists.
    """
    portable = store.portable
    first_of: dict[str, int] = {}
    for index, request in enumerate(requests):
        if request.unique is not None:
            first_of.setdefault(request.unique.key, index)
    holders = yield from _hold_keys(portable, sorted(first_of))
    found = yield from _find(portable, sorted(holders.values()))
    existing: dict[str, int] = {}
    for key, index in first_of.items():
        request = requests[index]
        job_id = holders.get(key, 0)
        assert request.unique is not None
        if is_held(request.unique, found.get(job_id)) and (
            yield from _keeps_away(portable, request, job_id, found[job_id])
        ):
            existing[key] = job_id
    new = [
        (index, request)
        for index, request in enumerate(requests)
        if request.unique is None
        or (request.unique.key not in existing and first_of[request.unique.key] == index)
    ]
    ids: dict[int, int] = {}
    for at in range(0, len(new), JOBS_PER_STATEMENT):
        some = new[at : at + JOBS_PER_STATEMENT]
        made = yield from store.enqueue([request for _, request in some])
        ids.update(zip((index for index, _ in some), made, strict=True))
    taken = {key: ids[index] for key, index in first_of.items() if index in ids}
    yield from _give(portable, taken)
    answers: list[tuple[int, bool]] = []
    for index, request in enumerate(requests):
        if index in ids:
            answers.append((ids[index], True))
            continue
        assert request.unique is not None
        key = request.unique.key
        if request.unique.on_conflict == OnConflict.RAISE and key in taken:
            raise JobExists(taken[key], key)
        answers.append((existing[key] if key in existing else taken[key], False))
    return answers


def forget_keys(portable: Portable, job_ids: Sequence[int]) -> Step[None]:
    """Drop the keys of jobs that are pruned."""
    table = portable.tables.unique_keys
    yield from portable.run(
        delete(table).where(table.c.shard == portable.shard, table.c.job_id.in_(job_ids))
    )


def _hold_keys(portable: Portable, keys: Sequence[str]) -> Step[dict[str, int]]:
    """Lock the keys' rows, in the order of the keys, made if need be; return whose they are: 0 for
    nobody's."""
    table = portable.tables.unique_keys
    holders: dict[str, int] = {}
    for at in range(0, len(keys), JOBS_PER_STATEMENT):
        rows = [
            {"shard": portable.shard, "key": key, "job_id": 0}
            for key in keys[at : at + JOBS_PER_STATEMENT]
        ]
        wanted = portable.insert(table).values(rows)
        held = wanted.on_conflict_do_update(
            index_elements=["shard", "key"], set_={"key": wanted.excluded.key}
        )
        found = yield from portable.run(held.returning(table.c.key, table.c.job_id))
        holders.update((key, job_id) for key, job_id in found)
    return holders


def _find(portable: Portable, job_ids: Sequence[int]) -> Step[dict[int, Holder]]:
    tables = portable.tables
    job, lease, record = tables.jobs, tables.leases, tables.commit_records
    rows = yield from portable.run(
        select(
            job.c.id,
            job.c.created_at,
            now().label("now"),
            exists().where(lease.c.job_id == job.c.id, lease.c.shard == job.c.shard),
            # By name: `*` would ask for the right to read results.
            exists(record.c.job_id).where(
                record.c.job_id == job.c.id, record.c.shard == job.c.shard
            ),
        ).where(job.c.shard == portable.shard, job.c.id.in_(job_ids))
    )
    return {
        job_id: Holder((at - created_at).total_seconds(), bool(is_leased), bool(is_ended))
        for job_id, created_at, at, is_leased, is_ended in rows
    }


def _keeps_away(portable: Portable, request: JobRequest, job_id: int, holder: Holder) -> Step[bool]:
    """Do what the request wants done about the job that has its key; return whether it stands."""
    unique = request.unique
    assert unique is not None
    if unique.on_conflict == OnConflict.RAISE:
        raise JobExists(job_id, unique.key)
    if unique.on_conflict == OnConflict.REPLACE and holder.is_waiting:
        return not (yield from _withdraw(portable, job_id))
    if unique.on_conflict == OnConflict.MOVE and holder.is_waiting:
        yield from _move(portable, request, job_id)
    return True


def _withdraw(portable: Portable, job_id: int) -> Step[bool]:
    """Cancel the job if it still waits; return whether it did."""
    waited = yield from take_out(portable, job_id)
    if waited is None:
        return False
    _, token = waited
    record = insert(portable.tables.commit_records).inline()
    yield from portable.run(
        record.values(
            shard=portable.shard,
            job_id=job_id,
            outcome=Outcome.CANCELLED.value,
            token=token,
            recorded_at=now(),
        )
    )
    return True


def _move(portable: Portable, request: JobRequest, job_id: int) -> Step[None]:
    """Give the job the request's time if it still waits."""
    waited = yield from take_out(portable, job_id)
    if waited is None:
        return
    attempts, token = waited
    place = insert(portable.tables.scheduled).inline()
    yield from portable.run(
        place.values(
            shard=portable.shard,
            job_id=job_id,
            run_at=request.run_at or seconds_later(now(), literal(float(request.delay_s))),
            attempts=attempts,
            token=token,
        )
    )


def _give(portable: Portable, taken: dict[str, int]) -> Step[None]:
    """Write whose the keys are now. Their rows are held."""
    table = portable.tables.unique_keys
    keys = sorted(taken)
    for at in range(0, len(keys), JOBS_PER_STATEMENT):
        rows = [
            {"shard": portable.shard, "key": key, "job_id": taken[key]}
            for key in keys[at : at + JOBS_PER_STATEMENT]
        ]
        given = portable.insert(table).values(rows)
        yield from portable.run(
            given.on_conflict_do_update(
                index_elements=["shard", "key"], set_={"job_id": given.excluded.job_id}
            )
        )

"""The COMMITTED boundary: an effect and its job's commit record, as one transaction.

    BEGIN; insert the record, joined to the live lease; the effect; confirm; COMMIT

Record first, so that a zombie is refused before it does any work. By jobq itself, before and
outside any savepoint of the handler's, so that no `except IntegrityError` can swallow the
refusal. Confirmed last, because PostgreSQL answers COMMIT with ROLLBACK after an error that the
handler swallowed, and drivers report success.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from jobq.database.base import AsyncEffect, Database, Effect, NotWhole
from jobq.errors import DatabaseUnavailable, EffectOutcomeUnknown, EffectRolledBack, JobNotFound
from jobq.protocol.values import Lease, Recorded

C = TypeVar("C")

SETTLE_FOR_S = 30.0
"""How long to ask what became of a COMMIT whose answer was lost."""
_SETTLE_PAUSE_S = 0.5


@contextmanager
def commit_effect_idempotent(database: Database, lease: Lease, kind: type[C]) -> Iterator[C]:
    """Run the block's effect and the job's commit record as one transaction. Blocks.

    Yields a session or connection of `kind`. When the block ends, both are committed; when it
    raises, neither is. Of all attempts at a job, at most one ever commits.

    Raises LeaseLost or AlreadyCommitted before the block runs; EffectRolledBack when the block
    ended the transaction or left it failed; EffectOutcomeUnknown when the connection was lost
    at COMMIT and the database could not be asked for the record afterwards, or asked too late.
    """
    effect, recorded = _begin(database, lease, kind)
    try:
        yield effect.handle
        effect.flush()
        try:
            effect.commit(database.store.confirm_record(recorded))
        except NotWhole as error:
            raise _rolled_back(lease) from error
        except Exception as error:
            if not effect.is_broken or not _settle(database, lease, error):
                raise
    finally:
        effect.close()


@asynccontextmanager
async def commit_effect_idempotent_async(
    database: Database, lease: Lease, kind: type[C]
) -> AsyncIterator[C]:
    """`commit_effect_idempotent` for asyncio."""
    effect, recorded = await _begin_async(database, lease, kind)
    try:
        yield effect.handle
        await effect.flush()
        try:
            await effect.commit(database.store.confirm_record(recorded))
        except NotWhole as error:
            raise _rolled_back(lease) from error
        except Exception as error:
            if not effect.is_broken or not await asyncio.to_thread(_settle, database, lease, error):
                raise
    finally:
        await effect.close()


def _begin(database: Database, lease: Lease, kind: type[C]) -> tuple[Effect[C], Recorded]:
    """Open the transaction and insert the record.

    Pooled connections may all have died with the last server; nothing has been done yet, so a
    broken one is only a reason to take the next.
    """
    for _ in range(database.max_connections + 1):
        effect = database.begin_effect(kind)
        try:
            recorded = effect.run(database.store.commit_record(lease))
        except BaseException:
            was_broken = effect.is_broken
            effect.close()
            if not was_broken:
                raise
        else:
            return effect, recorded
    raise DatabaseUnavailable(f"{database.url!r}: every pooled connection was broken")


async def _begin_async(
    database: Database, lease: Lease, kind: type[C]
) -> tuple[AsyncEffect[C], Recorded]:
    for _ in range(database.max_connections + 1):
        effect = await database.begin_effect_async(kind)
        try:
            recorded = await effect.run(database.store.commit_record(lease))
        except BaseException:
            was_broken = effect.is_broken
            await effect.close()
            if not was_broken:
                raise
        else:
            return effect, recorded
    raise DatabaseUnavailable(f"{database.url!r}: every pooled connection was broken")


def _settle(database: Database, lease: Lease, lost: Exception) -> bool:
    """Find out whether a COMMIT whose answer was lost took place. Never guesses."""
    deadline_s = time.monotonic() + SETTLE_FOR_S
    link = database.link()
    try:
        while True:
            try:
                return link.run(database.store.settle(lease))
            except JobNotFound as error:
                raise EffectOutcomeUnknown(
                    f"job {lease.job_id}: the connection was lost at COMMIT ({lost}), and by the "
                    "time the database was asked what became of it the job had been pruned with "
                    "its record: keep ended jobs longer than a worker can be frozen"
                ) from error
            except DatabaseUnavailable as error:
                if time.monotonic() >= deadline_s:
                    raise EffectOutcomeUnknown(
                        f"job {lease.job_id}: the connection was lost at COMMIT ({lost}) and the "
                        f"database could not be asked for {SETTLE_FOR_S:g} s what became of it; "
                        "the reconciler will finalize or retry it by its commit record"
                    ) from error
                time.sleep(_SETTLE_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311
    finally:
        link.close()


def _rolled_back(lease: Lease) -> EffectRolledBack:
    return EffectRolledBack(
        f"job {lease.job_id}: its effect transaction was rolled back or ended inside the handler, "
        "so nothing more of it can be committed. Let database errors propagate, or confine them "
        "to a savepoint (session.begin_nested()), and leave COMMIT and ROLLBACK to jobq"
    )


__all__ = ["commit_effect_idempotent", "commit_effect_idempotent_async"]

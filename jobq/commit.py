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
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from jobq.database.base import AsyncEffect, Database, Effect, NotWhole
from jobq.errors import (
    DatabaseUnavailable,
    EffectOutcomeUnknown,
    EffectRolledBack,
    JobNotFound,
    Refusal,
)
from jobq.protocol.values import Lease
from jobq.store.step import Step

C = TypeVar("C")
T = TypeVar("T")

SETTLE_FOR_S = 30.0
"""How long to ask what became of a COMMIT whose answer was lost."""
_SETTLE_PAUSE_S = 0.5


Result = Callable[[], str | None]


def no_result() -> None:
    """Nothing is kept."""


class Relay:
    """Hands the connection of a committed effect to the next one, with its transaction begun.

    "COMMIT; BEGIN; insert the next record" is one message. One relay serves attempts that run one
    after the other.
    """

    def __init__(self, follow: Callable[[Lease, type[Any]], Lease | None]) -> None:
        """`follow` tells whose effect of the same kind comes next here, if that is known before
        the given one is over."""
        self.follow = follow
        self._effect: Any = None
        self._following: Lease | None = None

    def hand_over(self, effect: Effect[Any] | AsyncEffect[Any], following: Lease) -> None:
        self._effect, self._following = effect, following

    def take(self, lease: Lease) -> Any:
        """Return the effect that was begun for this lease, None if it was not."""
        return self._take() if self._following == lease else None

    def left_over(self, following: Lease | None) -> Any:
        """Return an effect that was begun and will not be taken, None if there is none: its
        attempt did not come to its boundary, or does not follow after all. It is to be closed."""
        return self._take() if self._following != following else None

    def _take(self) -> Any:
        effect, self._effect, self._following = self._effect, None, None
        return effect


@contextmanager
def commit_effect_idempotent(
    database: Database,
    lease: Lease,
    kind: type[C],
    relay: Relay | None = None,
    result: Result = no_result,
) -> Iterator[C]:
    """Run the block's effect and the job's commit record as one transaction. Blocks.

    Yields a session or connection of `kind`. When the block ends, both are committed; when it
    raises, neither is. Of all attempts at a job, at most one ever commits. What `result` returns
    then is kept in the record, as JSON.

    Raises LeaseLost or AlreadyCommitted before the block runs; EffectRolledBack when the block
    ended the transaction or left it failed; EffectOutcomeUnknown when the connection was lost
    at COMMIT and the database could not be asked for the record afterwards, or asked too late.
    """
    begun = relay.take(lease) if relay else None
    effect, recorded = _begin(database, kind, lambda: database.store.commit_record(lease), begun)
    following: Lease | None = None
    try:
        yield effect.handle
        effect.flush()
        following = relay.follow(lease, kind) if relay else None
        try:
            if (kept := result()) is not None:
                with _keeping_result(effect, lease):
                    effect.run(database.store.record_results({lease.job_id: kept}))
            effect.commit(
                database.store.confirm_record(recorded),
                database.store.commit_record(following) if following else None,
            )
        except NotWhole as error:
            raise _rolled_back(lease) from error
        except Exception as error:
            if not effect.is_broken or not _settle(database, lease, error):
                raise
    finally:
        if relay and following and effect.has_begun:
            relay.hand_over(effect, following)
        else:
            effect.close()


@asynccontextmanager
async def commit_effect_idempotent_async(
    database: Database,
    lease: Lease,
    kind: type[C],
    relay: Relay | None = None,
    result: Result = no_result,
) -> AsyncIterator[C]:
    """`commit_effect_idempotent` for asyncio."""
    begun = relay.take(lease) if relay else None
    effect, recorded = await _begin_async(
        database, kind, lambda: database.store.commit_record(lease), begun
    )
    following: Lease | None = None
    try:
        yield effect.handle
        await effect.flush()
        following = relay.follow(lease, kind) if relay else None
        try:
            if (kept := result()) is not None:
                with _keeping_result(effect, lease):
                    await effect.run(database.store.record_results({lease.job_id: kept}))
            await effect.commit(
                database.store.confirm_record(recorded),
                database.store.commit_record(following) if following else None,
            )
        except NotWhole as error:
            raise _rolled_back(lease) from error
        except Exception as error:
            if not effect.is_broken or not await asyncio.to_thread(_settle, database, lease, error):
                raise
    finally:
        if relay and following and effect.has_begun:
            relay.hand_over(effect, following)
        else:
            await effect.close()


@contextmanager
def commit_effects_together(
    database: Database, leases: Sequence[Lease], kind: type[C]
) -> Iterator[Together[C]]:
    """Run one effect for several jobs, and the commit records of all of them, as one transaction.

    Blocks. Yields the session or connection, the leases that may commit, and why the others may
    not; when there are none that may, there is no session. Raises as `commit_effect_idempotent`
    does at its end.
    """
    effect, (recorded, refused) = _begin(
        database, kind, lambda: database.store.commit_records(leases)
    )
    accepted = [one.lease for one in recorded]
    try:
        if not accepted:
            yield Together(None, [], refused)
            return
        yield Together(effect.handle, accepted, refused)
        effect.flush()
        try:
            effect.commit(database.store.confirm_record(recorded[0]))
        except NotWhole as error:
            raise _rolled_back(accepted[0]) from error
        except Exception as error:
            # They are one transaction: what became of the first became of all.
            if not effect.is_broken or not _settle(database, accepted[0], error):
                raise
    finally:
        effect.close()


@asynccontextmanager
async def commit_effects_together_async(
    database: Database, leases: Sequence[Lease], kind: type[C]
) -> AsyncIterator[Together[C]]:
    """`commit_effects_together` for asyncio."""
    effect, (recorded, refused) = await _begin_async(
        database, kind, lambda: database.store.commit_records(leases)
    )
    accepted = [one.lease for one in recorded]
    try:
        if not accepted:
            yield Together(None, [], refused)
            return
        yield Together(effect.handle, accepted, refused)
        await effect.flush()
        try:
            await effect.commit(database.store.confirm_record(recorded[0]))
        except NotWhole as error:
            raise _rolled_back(accepted[0]) from error
        except Exception as error:
            if not effect.is_broken or not await asyncio.to_thread(
                _settle, database, accepted[0], error
            ):
                raise
    finally:
        await effect.close()


@dataclass(frozen=True, slots=True)
class Together(Generic[C]):
    """An open transaction for the effect of several jobs."""

    handle: C | None
    accepted: list[Lease]
    """In the order of their jobs."""
    refused: dict[Lease, Refusal]


def _begin(
    database: Database,
    kind: type[C],
    record: Callable[[], Step[T]],
    begun: Effect[C] | None = None,
) -> tuple[Effect[C], T]:
    """Open the transaction, unless it is `begun`, and insert the record.

    Pooled connections may all have died with the last server; nothing has been done yet, so a
    broken one is only a reason to take the next.
    """
    for _ in range(database.max_connections + 1):
        effect = begun or database.begin_effect(kind)
        begun = None
        try:
            recorded = effect.run(database.with_settings(record()))
        except BaseException:
            was_broken = effect.is_broken
            effect.close()
            if not was_broken:
                raise
        else:
            return effect, recorded
    raise DatabaseUnavailable(f"{database.url!r}: every pooled connection was broken")


async def _begin_async(
    database: Database,
    kind: type[C],
    record: Callable[[], Step[T]],
    begun: AsyncEffect[C] | None = None,
) -> tuple[AsyncEffect[C], T]:
    for _ in range(database.max_connections + 1):
        effect = begun or await database.begin_effect_async(kind)
        begun = None
        try:
            recorded = await effect.run(database.with_settings(record()))
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


@contextmanager
def _keeping_result(effect: Effect[Any] | AsyncEffect[Any], lease: Lease) -> Iterator[None]:
    """It is the first to notice that the handler left a failed transaction behind."""
    try:
        yield
    except Exception as error:
        if effect.is_broken:
            raise
        raise _rolled_back(lease) from error


def _rolled_back(lease: Lease) -> EffectRolledBack:
    return EffectRolledBack(
        f"job {lease.job_id}: its effect transaction was rolled back or ended inside the handler, "
        "so nothing more of it can be committed. Let database errors propagate, or confine them "
        "to a savepoint (session.begin_nested()), and leave COMMIT and ROLLBACK to jobq"
    )


__all__ = ["commit_effect_idempotent", "commit_effect_idempotent_async"]

"""Has a worker write its history: what it claimed, what it started, what each boundary answered.

It wraps jobq's own functions from outside, because a handler that is given a session never sees
its COMMIT. Nothing that jobq decides is changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import jobq.job
import jobq.worker.attempt
import jobq.worker.worker
from jobq.commit import (
    Relay,
    Result,
    commit_effect_idempotent,
    commit_effect_idempotent_async,
    no_result,
)
from jobq.database.base import Database
from jobq.errors import AlreadyCommitted, EffectOutcomeUnknown, Refusal
from jobq.protocol.values import ClaimedJob, Lease
from jobq.worker.attempt import Attempt
from jobq.worker.reports import Report
from tests.chaos.history import Answer, History, Op

C = TypeVar("C")


def observe(history: History) -> None:
    """Write every claim, start and commit of this process to `history`, from now on."""

    class ObservedAttempt(Attempt):
        def __init__(self, claimed: ClaimedJob, *args: Any, **keywords: Any) -> None:
            history.write(Op.CLAIM, **_facts(claimed))
            super().__init__(claimed, *args, **keywords)

        async def run(self, relay: Relay) -> Report:
            history.write(Op.START, **_facts(self.claimed))
            return await super().run(relay)

        def run_in_thread(self, relay: Relay) -> Report:
            history.write(Op.START, **_facts(self.claimed))
            return super().run_in_thread(relay)

    def tell(lease: Lease, error: BaseException | None, *, is_at_commit: bool) -> None:
        fate = error.outcome.value if isinstance(error, AlreadyCommitted) else ""
        history.write(
            Op.COMMIT,
            _answer(error, is_at_commit=is_at_commit),
            job=lease.job_id,
            token=lease.token,
            fate=fate,
            note="" if error is None else f"{type(error).__name__}: {error}"[:200],
        )

    @contextmanager
    def commit(
        database: Database,
        lease: Lease,
        kind: type[C],
        relay: Relay | None = None,
        result: Result = no_result,
    ) -> Iterator[C]:
        is_at_commit = False
        try:
            with commit_effect_idempotent(database, lease, kind, relay, result) as effect:
                yield effect
                is_at_commit = True
        except BaseException as error:
            tell(lease, error, is_at_commit=is_at_commit)
            raise
        tell(lease, None, is_at_commit=True)

    @asynccontextmanager
    async def commit_async(
        database: Database,
        lease: Lease,
        kind: type[C],
        relay: Relay | None = None,
        result: Result = no_result,
    ) -> AsyncIterator[C]:
        is_at_commit = False
        try:
            async with commit_effect_idempotent_async(
                database, lease, kind, relay, result
            ) as effect:
                yield effect
                is_at_commit = True
        except BaseException as error:
            tell(lease, error, is_at_commit=is_at_commit)
            raise
        tell(lease, None, is_at_commit=True)

    for module in (jobq.job, jobq.worker.attempt):
        setattr(module, commit_effect_idempotent.__name__, commit)
        setattr(module, commit_effect_idempotent_async.__name__, commit_async)
    setattr(jobq.worker.worker, Attempt.__name__, ObservedAttempt)


def _facts(claimed: ClaimedJob) -> dict[str, Any]:
    lease = claimed.lease
    return {"job": lease.job_id, "token": lease.token, "attempt": claimed.attempt}


def _answer(error: BaseException | None, *, is_at_commit: bool) -> Answer:
    """Before COMMIT every error is a rollback. At COMMIT jobq settles what it can, and says so;
    a coroutine that was cancelled there learned nothing."""
    if error is None:
        return Answer.ACKNOWLEDGED
    if isinstance(error, Refusal):
        return Answer.REFUSED
    is_settled = isinstance(error, Exception) and not isinstance(error, EffectOutcomeUnknown)
    return Answer.UNKNOWN if is_at_commit and not is_settled else Answer.FAILED

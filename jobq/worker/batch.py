"""Several attempts in one call of their handler, and in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from jobq.commit import Relay, Together, commit_effects_together, commit_effects_together_async
from jobq.errors import KeyMissing, UnreadableArguments
from jobq.middleware import EffectEvent, surrounding_batch
from jobq.protocol.values import Lease
from jobq.worker.attempt import Attempt
from jobq.worker.reports import Report, Reports


class Batch:
    """Claimed jobs of one batch task, in the hands of their handler together.

    When the handler raises, nothing of the batch is committed, and each half is tried by itself:
    so in the end it is the job that fails alone which has failed, and the others are committed.
    """

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        self.attempts = list(attempts)
        self._by_lease = {attempt.lease: attempt for attempt in attempts}
        self.task = attempts[0].task
        self._database = attempts[0].database
        self._running: asyncio.Task[Any] | None = None

    @property
    def lease(self) -> Lease:
        """The first job's, by which the batch is known."""
        return self.attempts[0].lease

    @property
    def leases(self) -> list[Lease]:
        return list(self._by_lease)

    @property
    def size(self) -> int:
        return len(self.attempts)

    @property
    def name(self) -> str:
        return f"{self.task.name} {self.lease.job_id} and {len(self.attempts) - 1} more"

    @property
    def is_async(self) -> bool:
        return self.task.handler.is_async

    def interrupt(self) -> Reports:
        """The worker stops and waits no longer. Return the reports; the handler's are ignored."""
        if self._running is not None:
            self._running.cancel()
        return _gathered(attempt.interrupt() for attempt in self.attempts)

    async def run(self, _: Relay) -> Reports:
        """Run an `async def` handler; return a report for each job."""
        self._running = asyncio.current_task()
        return await self._run_async(self.attempts)

    def run_in_thread(self, _: Relay) -> Reports:
        """Run a `def` handler in place; return a report for each job."""
        return self._run(self.attempts)

    def _run(self, attempts: Sequence[Attempt]) -> Reports:
        items, reports = self._read(attempts)
        if not items:
            return reports
        try:
            with self._surrounding(items):
                applied = self._apply(items)
        except BaseException as error:  # noqa: BLE001 - as of an attempt by itself
            if len(items) == 1:
                applied = _gathered(attempt.ended(error) for attempt in items)
            else:
                first, second = _halves(list(items))
                applied = self._run(first)
                applied.extend(self._run(second))
        reports.extend(applied)
        return reports

    async def _run_async(self, attempts: Sequence[Attempt]) -> Reports:
        items, reports = self._read(attempts)
        if not items:
            return reports
        try:
            with self._surrounding(items):
                applied = await self._apply_async(items)
        except BaseException as error:  # noqa: BLE001
            if len(items) == 1 or isinstance(error, asyncio.CancelledError):
                applied = _gathered(attempt.ended(error) for attempt in items)
            else:
                first, second = _halves(list(items))
                applied = await self._run_async(first)
                applied.extend(await self._run_async(second))
        reports.extend(applied)
        return reports

    def _read(self, attempts: Sequence[Attempt]) -> tuple[dict[Attempt, Any], Reports]:
        """Each job's one argument; a job whose argument cannot be read fails by itself."""
        items: dict[Attempt, Any] = {}
        reports = Reports()
        for attempt in attempts:
            attempt.begin()
            try:
                (items[attempt],) = self.task.read(
                    attempt.claimed.task, attempt.claimed.args
                ).values()
            except (KeyMissing, UnreadableArguments) as error:
                reports.add(attempt.ended(error))
        return items, reports

    def _surrounding(self, items: Iterable[Attempt]) -> AbstractContextManager[object]:
        return surrounding_batch(self.task.app.middleware, [attempt.job for attempt in items])

    def _apply(self, items: dict[Attempt, Any]) -> Reports:
        handler = self.task.handler
        if handler.effect_kind is None:
            handler.call(self.task.name, list(items.values()))
            return _gathered(attempt.ended(None) for attempt in items)
        leases = [attempt.lease for attempt in items]
        with commit_effects_together(self._database, leases, handler.effect_kind) as together:
            accepted = self._begun(together)
            if accepted:
                handler.call(
                    self.task.name, together.handle, [items[attempt] for attempt in accepted]
                )
        for attempt in accepted:
            attempt.fate.committed()
        return _gathered(attempt.ended(together.refused.get(attempt.lease)) for attempt in items)

    async def _apply_async(self, items: dict[Attempt, Any]) -> Reports:
        handler = self.task.handler
        if handler.effect_kind is None:
            await handler.function(list(items.values()))
            return _gathered(attempt.ended(None) for attempt in items)
        leases = [attempt.lease for attempt in items]
        async with commit_effects_together_async(
            self._database, leases, handler.effect_kind
        ) as together:
            accepted = self._begun(together)
            if accepted:
                await handler.function(together.handle, [items[attempt] for attempt in accepted])
        for attempt in accepted:
            attempt.fate.committed()
        return _gathered(attempt.ended(together.refused.get(attempt.lease)) for attempt in items)

    def _begun(self, together: Together[Any]) -> list[Attempt]:
        """Those that may commit; the others are told why not."""
        for lease, refusal in together.refused.items():
            self._by_lease[lease].fate.refused(refusal)
        accepted = [self._by_lease[lease] for lease in together.accepted]
        for attempt in accepted:
            attempt.fate.tell(EffectEvent.BEGUN)
        return accepted


def _halves(attempts: list[Attempt]) -> tuple[list[Attempt], list[Attempt]]:
    middle = len(attempts) // 2
    return attempts[:middle], attempts[middle:]


def _gathered(several: Iterable[Report]) -> Reports:
    reports = Reports()
    for report in several:
        reports.add(report)
    return reports

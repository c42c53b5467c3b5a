"""What a worker has in hand: attempts that wait, attempts that run, and what there is to report."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jobq.protocol.values import Lease
from jobq.worker.attempt import Attempt
from jobq.worker.batch import Batch
from jobq.worker.reports import Report, Reports

Unit = Attempt | Batch
"""What a handler is called for once."""


class Workload:
    """Shared by the event loop and the handler threads: a thread that has ended one attempt goes
    on with the next by itself, and the loop learns of it when it has something to do about it."""

    def __init__(self, concurrency: int, is_stale: Callable[[Lease], bool]) -> None:
        """`is_stale`: whether a lease may have run out, so that its job is not worth starting."""
        self._concurrency = concurrency
        self._is_stale = is_stale
        self._waiting: deque[Attempt] = deque()
        self._moved_s = 0.0
        """When one of them came or was taken last, by the monotonic clock."""
        self._running: dict[Unit, asyncio.Task[Any] | None] = {}
        self._abandoned: dict[Unit, asyncio.Task[Any] | None] = {}
        self._followers: dict[Lease, Unit] = {}
        """Who comes after an attempt that has not ended yet."""
        self._reports = Reports()
        self._ended = 0
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def reports(self) -> int:
        return len(self._reports)

    @property
    def has_idle_handlers(self) -> bool:
        return not self._waiting and len(self._running) < self._concurrency

    def room(self, ahead: int) -> int:
        """How many more to claim when `ahead` are to wait besides those that run."""
        in_hand = len(self._waiting) + len(self._running) + len(self._followers)
        return self._concurrency + ahead - in_hand

    def in_hand_by_queue(self) -> Counter[str]:
        """How many jobs of each queue wait or run here."""
        running = self.all_running()
        with self._lock:
            return Counter(one.claimed.queue for one in (*self._waiting, *running))

    def add(self, attempts: Iterable[Attempt]) -> None:
        with self._lock:
            self._waiting.extend(attempts)
            self._moved_s = time.monotonic()

    def start(self) -> list[Unit]:
        """Take the next attempts for the handlers that are free; they count as running."""
        with self._lock:
            started: list[Unit] = []
            while len(self._running) < self._concurrency and (unit := self._take_next()):
                self._running[unit] = None
                started.append(unit)
            return started

    def is_run_by(self, unit: Unit, task: asyncio.Task[Any]) -> None:
        """Note what to wait for when the attempt is interrupted."""
        with self._lock:
            if unit in self._running:
                self._running[unit] = task

    def follow(self, lease: Lease, kind: type[Any]) -> Lease | None:
        """Decide already who comes after a running attempt, if the next one is for a thread too,
        with an effect of this kind."""
        with self._lock:
            if self._is_closed or not (
                follower := self._take_next(lambda one: one.effect_kind is kind)
            ):
                return None
            self._followers[lease] = follower
            return follower.lease

    def ended(
        self, unit: Unit, report: Report | Reports, *, in_thread: bool = False
    ) -> Unit | None:
        """Take what an attempt or a batch reports, and give its handler the next. A thread takes
        only what is for a thread; the loop starts either."""
        with self._lock:
            following = self._followers.pop(unit.lease, None)
            if unit not in self._running:  # interrupted, and reported as such
                self._abandoned.pop(unit, None)
                if following:
                    self._abandoned.pop(following, None)
                return None
            del self._running[unit]
            if isinstance(report, Reports):
                self._reports.extend(report)
            else:
                self._reports.add(report)
            self._ended += unit.size
            if not following and not self._is_closed:
                following = self._take_next(lambda one: not (in_thread and one.is_async))
            if following:
                self._running[following] = None
            return following

    def _take_next(self, is_wanted: Callable[[Attempt], bool] = lambda _: True) -> Unit | None:
        while self._waiting:
            if self._is_stale(self._waiting[0].lease):
                # The process was frozen, or the database away: leave it to the reconciler.
                self._waiting.popleft()
            elif is_wanted(self._waiting[0]):
                first = self._waiting.popleft()
                self._moved_s = time.monotonic()
                return self._gather(first) if first.task.batch_size else first
            else:
                break
        return None

    def _gather(self, first: Attempt) -> Batch:
        """Put those of its task that wait here into one batch with it, as many as it may have."""
        assert first.task.batch_size is not None
        batch = [first]
        others: deque[Attempt] = deque()
        for one in self._waiting:
            if (
                one.task is first.task
                and len(batch) < first.task.batch_size
                and not self._is_stale(one.lease)
            ):
                batch.append(one)
            else:
                others.append(one)
        self._waiting = others
        return Batch(batch)

    def count_ended(self) -> int:
        """Return how many attempts ended since the last call."""
        with self._lock:
            ended, self._ended = self._ended, 0
            return ended

    def report(self, reports: Reports) -> None:
        """Have these told too, or again."""
        with self._lock:
            self._reports.extend(reports)

    def take_reports(self) -> Reports:
        with self._lock:
            reports, self._reports = self._reports, Reports()
            return reports

    def drop_waiting(self, is_dropped: Callable[[Lease], bool]) -> list[Lease]:
        """Take out attempts that never started, and return their leases."""
        with self._lock:
            dropped = [one.lease for one in self._waiting if is_dropped(one.lease)]
            self._waiting = deque(one for one in self._waiting if not is_dropped(one.lease))
            return dropped

    def take_waiting_of(self, tasks: Sequence[str]) -> list[Lease]:
        """Take out attempts at these tasks that never started, and return their leases."""
        with self._lock:
            taken = [one for one in self._waiting if one.claimed.task in tasks]
            self._waiting = deque(one for one in self._waiting if one not in taken)
            return [one.lease for one in taken]

    def take_stuck(self, patience_s: float) -> list[Lease]:
        """Take out all that wait, when no handler has taken one of them for so long."""
        with self._lock:
            is_stuck = self._waiting and time.monotonic() - self._moved_s >= patience_s
            taken = [one.lease for one in self._waiting] if is_stuck else []
            if is_stuck:
                self._waiting.clear()
            return taken

    def close(self) -> list[Lease]:
        """Start nothing any more; return the leases of what never started."""
        self._is_closed = True
        return self.drop_waiting(lambda _: True)

    def all_running(self) -> list[Attempt]:
        with self._lock:
            units = [*self._running, *self._followers.values()]
        return [
            attempt
            for unit in units
            for attempt in (unit.attempts if isinstance(unit, Batch) else [unit])
        ]

    def abandon(self) -> dict[Unit, asyncio.Task[Any] | None]:
        """Return the attempts that still run: what they report from now on is not heard."""
        with self._lock:
            self._abandoned, self._running = self._running, {}
            self._abandoned |= dict.fromkeys(self._followers.values())
            return dict(self._abandoned)

    @property
    def has_abandoned(self) -> bool:
        """Whether any of those runs even now."""
        return bool(self._abandoned)

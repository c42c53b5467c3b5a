"""What a worker has in hand: attempts that wait, attempts that run, and what there is to report."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from jobq.protocol.values import Lease
from jobq.worker.attempt import Attempt
from jobq.worker.reports import Report, Reports


class Workload:
    """Shared by the event loop and the handler threads: a thread that has ended one attempt goes
    on with the next by itself, and the loop learns of it when it has something to do about it."""

    def __init__(self, concurrency: int, is_stale: Callable[[Lease], bool]) -> None:
        """`is_stale`: whether a lease may have run out, so that its job is not worth starting."""
        self._concurrency = concurrency
        self._is_stale = is_stale
        self._waiting: deque[Attempt] = deque()
        self._running: dict[Attempt, asyncio.Task[Report] | None] = {}
        self._abandoned: dict[Attempt, asyncio.Task[Report] | None] = {}
        self._followers: dict[Lease, Attempt] = {}
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

    def add(self, attempts: Iterable[Attempt]) -> None:
        with self._lock:
            self._waiting.extend(attempts)

    def start(self) -> list[Attempt]:
        """Take the next attempts for the handlers that are free; they count as running."""
        with self._lock:
            started = []
            while len(self._running) < self._concurrency and (attempt := self._take_next()):
                self._running[attempt] = None
                started.append(attempt)
            return started

    def is_run_by(self, attempt: Attempt, task: asyncio.Task[Report]) -> None:
        """Note what to wait for when the attempt is interrupted."""
        with self._lock:
            if attempt in self._running:
                self._running[attempt] = task

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

    def ended(self, attempt: Attempt, report: Report, *, in_thread: bool = False) -> Attempt | None:
        """Take an attempt's report, and give its handler the next. A thread takes only what is
        for a thread; the loop starts either."""
        with self._lock:
            following = self._followers.pop(attempt.lease, None)
            if attempt not in self._running:  # interrupted, and reported as such
                self._abandoned.pop(attempt, None)
                if following:
                    self._abandoned.pop(following, None)
                return None
            del self._running[attempt]
            self._reports.add(report)
            self._ended += 1
            if not following and not self._is_closed:
                following = self._take_next(lambda one: not (in_thread and one.is_async))
            if following:
                self._running[following] = None
            return following

    def _take_next(self, is_wanted: Callable[[Attempt], bool] = lambda _: True) -> Attempt | None:
        while self._waiting:
            if self._is_stale(self._waiting[0].lease):
                # The process was frozen, or the database away: leave it to the reconciler.
                self._waiting.popleft()
            elif is_wanted(self._waiting[0]):
                return self._waiting.popleft()
            else:
                break
        return None

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

    def close(self) -> list[Lease]:
        """Start nothing any more; return the leases of what never started."""
        self._is_closed = True
        return self.drop_waiting(lambda _: True)

    def all_running(self) -> list[Attempt]:
        with self._lock:
            return [*self._running, *self._followers.values()]

    def abandon(self) -> dict[Attempt, asyncio.Task[Report] | None]:
        """Return the attempts that still run: what they report from now on is not heard."""
        with self._lock:
            self._abandoned, self._running = self._running, {}
            self._abandoned |= dict.fromkeys(self._followers.values())
            return dict(self._abandoned)

    @property
    def has_abandoned(self) -> bool:
        """Whether any of those runs even now."""
        return bool(self._abandoned)

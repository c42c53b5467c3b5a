"""When a worker looks for ticks of periodic jobs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from jobq.database.base import Link
from jobq.protocol.schedule import Schedule
from jobq.store.base import Store
from jobq.store.schedules import declare, make_due
from jobq.store.step import Step

LOOK_S = 5.0
"""A schedule that is new, edited or resumed is seen within so long."""


class Scheduler:
    """Makes the jobs of the ticks that are due, in the worker's own turns.

    Every worker does, for all schedules of the database. None is the leader, and none waits for
    another.
    """

    def __init__(self, store: Store, declared: Sequence[Schedule]) -> None:
        self._store = store
        self._declared = declared
        self.is_undeclared = bool(declared)
        """Whether the code's schedules are still to be written."""
        self._next_s = 0.0
        self._next_tick_s = 0.0

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._next_s

    def until_due_s(self) -> float:
        """Seconds until the next tick that is known of, which is worth a turn of its own. To look
        whether there is a new one, the next turn will do."""
        return max(0.0, self._next_tick_s - time.monotonic())

    def declare(self, link: Link) -> None:
        """Write the code's schedules. Blocks. Raises DatabaseUnavailable."""
        link.run(declare(self._store.portable, self._declared))
        self.is_undeclared = False
        self._next_s = self._next_tick_s = 0.0

    def look(self) -> Step[None]:
        """Enqueue what is due."""
        self._next_s = time.monotonic() + LOOK_S
        until_next_s = yield from make_due(self._store)
        looked_s = time.monotonic()
        self._next_tick_s = math.inf if until_next_s is None else looked_s + until_next_s
        self._next_s = min(self._next_s, self._next_tick_s)

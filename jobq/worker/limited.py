"""What a worker claims of the jobs that have limits, and when it looks for them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jobq.database.base import Link
from jobq.protocol.values import ClaimedJob
from jobq.store.base import Store
from jobq.store.limits import LimitedClaim, claim_limited, declare
from jobq.store.step import Step
from jobq.task import Task
from jobq.worker.options import WorkerOptions


class LimitedLines:
    """The lines of throttled jobs, as one worker goes along them.

    A worker whose tasks have no limits never looks. Others look in each turn that has room for
    jobs, for half of that room; what the limits hold back is looked at again when there
    may be room.
    """

    def __init__(
        self,
        store: Store,
        worker: str,
        tasks: Mapping[str, Task[..., Any]],
        options: WorkerOptions,
    ) -> None:
        self._portable = store.portable
        self._limits = {limit for task in tasks.values() for limit in task.limits}
        self._tasks = [name for name, task in tasks.items() if task.limits]
        self._worker = worker
        self._options = options
        self.is_undeclared = bool(self._tasks)
        """Whether the database has not been told of the limits yet; until then it gives out none of
        their jobs."""
        self._after = ""
        self._next_s = math.inf

    @property
    def is_served(self) -> bool:
        return bool(self._tasks)

    def declare(self, link: Link) -> None:
        """Tell the database what the limits are. Blocks. Raises DatabaseUnavailable."""
        link.run(declare(self._portable, list(self._limits)))
        self.is_undeclared = False

    def until_due_s(self) -> float:
        """Seconds until another look may find what limits held back at the last."""
        return max(0.0, self._next_s - time.monotonic())

    def claim(
        self, limit: int, tasks: Sequence[str], queues: Sequence[str] | None
    ) -> Step[list[ClaimedJob]]:
        """Lease up to `limit` jobs of these tasks and queues (None: all) whose limits have room."""
        claim = LimitedClaim(
            self._worker,
            queues,
            [name for name in self._tasks if name in tasks],
            limit,
            self._options.lease_s,
            self._after,
        )
        found = yield from claim_limited(self._portable, claim)
        self._after = found.after
        self._next_s = math.inf if found.again_s is None else time.monotonic() + found.again_s
        return found.claimed

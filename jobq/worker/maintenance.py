"""Pruning in the background: a walk along the jobs, a batch at a time, in every worker.

No worker is the leader, and none waits for another. Each begins at a time of its own; two that
meet leave each other's jobs alone.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Mapping

from jobq.database.base import Link
from jobq.logs import FieldLogger
from jobq.protocol.retention import Pruned, Retention, RetentionPolicy
from jobq.store.base import Store
from jobq.worker.apart import NO_ROWS_FAULT

logger = logging.getLogger("jobq.worker")

BATCH = 500
"""Jobs looked at in one transaction: the worker's claims wait for it, for some 10 ms."""
SHARE = 0.05
"""Of the worker's time, at most, is spent on pruning."""


class Pruner:
    """Prunes the jobs of the worker's own tasks, and the workers that are long gone.

    The tasks of others are left alone: who has them knows how long to keep their jobs.
    """

    def __init__(
        self,
        store: Store,
        keep: Mapping[str, Retention],
        interval_s: float | None,
        *,
        batch: int = BATCH,
        log: logging.Logger | FieldLogger = logger,
    ) -> None:
        """`interval_s`: from the end of one walk to the next, half as long to half as long again;
        None for never."""
        self._store = store
        self._policy = RetentionPolicy(keep)
        self._batch = batch
        self.log = log
        self._interval_s = math.inf if interval_s is None else interval_s
        self._after = 0
        self._pruned = 0
        # Spread out: a deploy starts many workers at once.
        self._next_s = time.monotonic() + self._interval_s * random.uniform(0.01, 1)  # noqa: S311

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._next_s

    def run(self, link: Link) -> None:
        """Prune one batch. Blocks. Raises DatabaseUnavailable; the batch is then repeated."""
        began_s = time.monotonic()
        # Unless it goes well: a fault is not to be met at once again.
        self._next_s = began_s + self._interval_s * random.uniform(0.5, 1.5)  # noqa: S311
        pruned = self._prune(link, self._after, self._batch)
        self._pruned += pruned.total
        if pruned.after is not None:
            self._after = pruned.after
            self._next_s = time.monotonic() + (time.monotonic() - began_s) / SHARE
            return
        self._after = 0
        link.run(self._store.prune_workers())
        if self._pruned:
            self.log.info(
                "pruned %d jobs that were kept for their time",
                self._pruned,
                extra={"count": self._pruned},
            )
        self._pruned = 0

    def _prune(self, link: Link, after: int, limit: int) -> Pruned:
        """A batch, and when it fails its halves: a job that something of the service's own refers
        to, by a foreign key, cannot be deleted, and the others can."""
        try:
            return link.run(self._store.prune(self._policy, after=after, limit=limit))
        except NO_ROWS_FAULT:
            raise
        except Exception:
            if limit == 1:
                looked_at = self._store.prune(self._policy, after=after, limit=1, is_dry_run=True)
                left = link.run(looked_at)
                self.log.exception("the next job after %d cannot be pruned, and is left", after)
                return Pruned({}, left.walked, left.after)
        first = self._prune(link, after, limit // 2)
        if first.after is None:
            return first
        second = self._prune(link, first.after, limit - limit // 2)
        jobs = {
            outcome: first.jobs.get(outcome, 0) + second.jobs.get(outcome, 0)
            for outcome in {**first.jobs, **second.jobs}
        }
        return Pruned(jobs, first.walked + second.walked, second.after)

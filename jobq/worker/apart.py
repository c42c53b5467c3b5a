"""What a row that the database refuses costs: that row, and not the batch it came with.

A batch is one transaction, and fails as a whole. Then it is tried in halves, and those in halves,
as a batch of handlers is: what fails by itself is set aside for a while, and the others are done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from jobq.database.base import Link
from jobq.errors import DatabaseUnavailable, NotMigrated, NotPermitted
from jobq.logs import FieldLogger
from jobq.protocol.values import Claim, ClaimedJob, Recovered
from jobq.store.apart import due_jobs, expired_leases, ready_jobs
from jobq.store.base import RetryDelay, Store
from jobq.store.step import Step

T = TypeVar("T")

NO_ROWS_FAULT = (DatabaseUnavailable, NotMigrated, NotPermitted)
"""What every row would meet, and none is to be blamed for."""
ASIDE_S = 60.0
"""How long a row is passed over before it is tried again: somebody may have put it right."""


class Apart:
    """Takes a worker's batches apart. Its methods block; each raises what is no row's fault."""

    def __init__(self, store: Store, link: Link, log: FieldLogger) -> None:
        self._store = store
        self._link = link
        self._log = log
        self._aside_until_s: dict[tuple[str, int], float] = {}

    def alone(self, step: Step[T], what: str, instead: T) -> T:
        """One step that is not made of rows to choose from, or what stands for its failure."""
        try:
            return self._link.run(step)
        except NO_ROWS_FAULT:
            raise
        except Exception as error:  # noqa: BLE001 - told, and tried again with the next turn
            self._log.warning(
                "%s: refused by the database, and left for the next turn: %s",
                what,
                error,
                extra={"error_type": type(error).__qualname__, "error_message": str(error)},
            )
            return instead

    def reconcile(self, limit: int, retry_delay: RetryDelay) -> Recovered:
        """`Store.reconcile`, and when it fails without the rows that make it fail."""
        try:
            return self._link.run(self._store.reconcile(limit, retry_delay))
        except NO_ROWS_FAULT:
            raise
        except Exception:  # noqa: BLE001 - it is met again, and told with the row that it is about
            self._log.warning("expired leases cannot be recovered together; trying in halves")
        found = self._link.run(expired_leases(self._store.portable, limit + self._count_aside()))
        by_job = {lease.job_id: lease for lease in found}
        parts = self._in_halves(
            "recover",
            self._without_aside("recover", list(by_job), limit),
            lambda some: self._link.run(
                self._store.reconcile_those([by_job[job_id] for job_id in some], retry_delay)
            ),
        )
        return Recovered(
            healed=tuple(job_id for part in parts for job_id in part.healed),
            retried=tuple(job_id for part in parts for job_id in part.retried),
            dead=tuple(job_id for part in parts for job_id in part.dead),
            parked=tuple(job_id for part in parts for job_id in part.parked),
        )

    def promote(self, limit: int) -> int:
        """What `Store.promote` would move together."""
        found = self._link.run(due_jobs(self._store.portable, limit + self._count_aside()))
        return sum(
            self._in_halves(
                "promote",
                self._without_aside("promote", found, limit),
                lambda some: self._link.run(self._store.promote_those(some)),
            )
        )

    def claim(self, claim: Claim) -> list[ClaimedJob]:
        """What `Store.claim` would take together, from the head of each line."""
        claimed: list[ClaimedJob] = []
        for queue in claim.queues:
            limit = claim.limit - len(claimed)
            if limit <= 0:
                break
            claimed += self._claim_from(replace(claim, queues=[queue], limit=limit, since={}))
        return claimed

    def _claim_from(self, claim: Claim) -> list[ClaimedJob]:
        (queue,) = claim.queues
        asked = claim.limit + self._count_aside()
        found = self._link.run(ready_jobs(self._store.portable, queue, claim.tasks, asked))
        parts = self._in_halves(
            "claim",
            self._without_aside("claim", found, claim.limit),
            lambda some: self._link.run(self._store.claim_those(replace(claim, only=some))),
        )
        return [job for part in parts for job in part]

    def _in_halves(
        self, what: str, job_ids: Sequence[int], run: Callable[[Sequence[int]], T]
    ) -> list[T]:
        if not job_ids:
            return []
        try:
            return [run(job_ids)]
        except NO_ROWS_FAULT:
            raise
        except Exception:  # noqa: BLE001 - of several it is met again
            if len(job_ids) == 1:
                self._aside_until_s[what, job_ids[0]] = time.monotonic() + ASIDE_S
                self._log.exception(
                    "job %d: the database refuses to %s it; trying again in %g s",
                    job_ids[0],
                    what,
                    ASIDE_S,
                    extra={"job_id": job_ids[0], "pause_s": ASIDE_S},
                )
                return []
        middle = len(job_ids) // 2
        return [
            *self._in_halves(what, job_ids[:middle], run),
            *self._in_halves(what, job_ids[middle:], run),
        ]

    def _count_aside(self) -> int:
        now_s = time.monotonic()
        self._aside_until_s = {
            row: until_s for row, until_s in self._aside_until_s.items() if until_s > now_s
        }
        return len(self._aside_until_s)

    def _without_aside(self, what: str, job_ids: Sequence[int], limit: int) -> list[int]:
        return [job_id for job_id in job_ids if (what, job_id) not in self._aside_until_s][:limit]

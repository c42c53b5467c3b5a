"""How long ended jobs are kept, and which of them are over their time. Pure: ages are passed in.

A job and its commit record are pruned together, never one without the other: a record without
its job would decide over a job that is given the same id, and a job without its record would be
run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from jobq.errors import InvalidOption
from jobq.protocol.states import Outcome

MINUTE_S = 60.0
HOUR_S = 60 * MINUTE_S
DAY_S = 24 * HOUR_S

MIN_AGE_S = HOUR_S
"""No record younger than this is pruned, whatever a policy says. An attempt whose COMMIT lost its
answer looks for its record: for `SETTLE_FOR_S` (30 s), after it noticed that the connection is
gone, which takes TCP a quarter of an hour at worst."""

MAX_AGE_S = 36_500 * DAY_S
"""A hundred years: a longer time means for ever, and dates have an end."""

WORKERS_KEPT_S = 7 * DAY_S
"""How long a worker that stopped, or was not seen any more, is remembered."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a job is kept after its fate was recorded, by its fate.

        @app.task(keep=Retention(committed_s=3_600, dead_s=None))

    - `committed_s`: those that are done.
    - `dead_s`: those that are dead.
    - `cancelled_s`: those that were cancelled.

    Seconds from 3,600 (an hour) to a hundred years; None keeps for ever. Raises InvalidOption.
    """

    committed_s: float | None = 7 * DAY_S
    dead_s: float | None = 30 * DAY_S
    cancelled_s: float | None = 7 * DAY_S

    def __post_init__(self) -> None:
        for outcome in Outcome:
            kept_s = self.of(outcome)
            if kept_s is not None and not MIN_AGE_S <= kept_s <= MAX_AGE_S:
                raise InvalidOption(
                    f"{outcome.value} jobs kept for {kept_s:g} s: a commit record younger than "
                    f"{MIN_AGE_S:g} s may still be asked for by an attempt that lost the answer "
                    f"to its COMMIT. Use {MIN_AGE_S:g} to {MAX_AGE_S:g} seconds, or None for ever"
                )

    def of(self, outcome: Outcome) -> float | None:
        """Return how long jobs of this fate are kept, in seconds; None for ever."""
        if outcome is Outcome.COMMITTED:
            return self.committed_s
        return self.dead_s if outcome is Outcome.DEAD else self.cancelled_s

    def only(self, outcomes: Iterable[Outcome]) -> Retention:
        """Return the same for these fates; the others are kept for ever."""
        others = set(Outcome) - set(outcomes)
        return replace(self, **{f"{outcome.value}_s": None for outcome in others})


FOREVER = Retention(None, None, None)


@dataclass(frozen=True, slots=True)
class WalkedJob:
    """A job as the pruner meets it. Ages are in seconds, by the database's clock."""

    id: int
    task: str
    age_s: float
    """Since it was enqueued."""
    outcome: Outcome | None
    """Its fate; None while it has none."""
    ended_s: float
    """Since its fate was recorded; 0 while it has none."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long the jobs of each task are kept."""

    by_task: Mapping[str, Retention] = field(default_factory=dict)
    otherwise: Retention = FOREVER
    """For tasks that are not named. A worker leaves those alone: another one knows their policy."""

    def is_over(self, job: WalkedJob) -> bool:
        """Whether the job ended, and has been kept for its time."""
        if job.outcome is None:
            return False
        kept_s = self.by_task.get(job.task, self.otherwise).of(job.outcome)
        return kept_s is not None and job.ended_s >= kept_s

    @property
    def shortest_s(self) -> float | None:
        """The least age at which any job is over its time; None when all are kept for ever.

        A job has ended no longer ago than it was enqueued, and ids grow with time. So where a
        walk along the ids meets a job younger than this, it can end.
        """
        kept = [
            kept_s
            for retention in (*self.by_task.values(), self.otherwise)
            for outcome in Outcome
            if (kept_s := retention.of(outcome)) is not None
        ]
        return min(kept, default=None)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one batch did."""

    jobs: Mapping[Outcome, int]
    """How many went, by their fate."""
    walked: int
    """How many jobs were looked at."""
    after: int | None
    """Where the next batch begins; None when there is nothing further to look at."""

    @property
    def total(self) -> int:
        return sum(self.jobs.values())


__all__ = [
    "DAY_S",
    "FOREVER",
    "HOUR_S",
    "MAX_AGE_S",
    "MINUTE_S",
    "MIN_AGE_S",
    "WORKERS_KEPT_S",
    "Pruned",
    "Retention",
    "RetentionPolicy",
    "WalkedJob",
]

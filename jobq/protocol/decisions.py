"""What follows for a job when an attempt ends. Pure: no clock, no randomness, no database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jobq.protocol.states import AttemptEnd, Outcome
from jobq.protocol.values import AttemptError, LeasedAttempt, Record, Recovered

EXPIRED = AttemptError(
    type="jobq.LeaseExpired",
    message="the lease expired with no commit record: the worker crashed, froze or was cut off",
    traceback="",
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How one leased attempt leaves its lease.

    The lease is removed in every case. With `retry_delay_s` the job waits in `scheduled`; when
    it `is_dead` its fate is recorded; with neither its fate was recorded before.
    """

    attempt: LeasedAttempt
    end: AttemptEnd
    error: AttemptError | None
    retry_delay_s: float | None
    is_dead: bool

    @property
    def attempts_spent(self) -> int:
        """How many of its attempts the job has spent, when it waits for the next."""
        return self.attempt.attempt - (self.end is AttemptEnd.SNOOZED)


def ending_of(
    attempt: LeasedAttempt,
    record: Record | None,
    *,
    end: AttemptEnd,
    error: AttemptError | None,
    retry_delay_s: float | None,
) -> Ending:
    """Decide the ending of an attempt whose lease the caller has locked.

    `record` must have been looked for after the lock was held: until then a commit may still
    be under way, and after it none can begin.
    """
    if record is not None and record.outcome is Outcome.COMMITTED:
        return Ending(attempt, AttemptEnd.HEALED, None, None, is_dead=False)
    if record is not None:
        return Ending(attempt, end, error, None, is_dead=False)
    is_last = attempt.attempt >= attempt.max_attempts and end is not AttemptEnd.SNOOZED
    if retry_delay_s is None or is_last:
        return Ending(attempt, end, error, None, is_dead=True)
    return Ending(attempt, end, error, retry_delay_s, is_dead=False)


def recovered(endings: Iterable[Ending]) -> Recovered:
    """Sort what a pass of the reconciler did by what it meant for the jobs."""
    healed: list[int] = []
    retried: list[int] = []
    dead: list[int] = []
    for ending in endings:
        kind = dead if ending.is_dead else healed if ending.retry_delay_s is None else retried
        kind.append(ending.attempt.lease.job_id)
    return Recovered(tuple(healed), tuple(retried), tuple(dead))

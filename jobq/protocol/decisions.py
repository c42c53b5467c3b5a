"""What follows for a job when an attempt ends. Pure: no clock, no randomness, no database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from jobq.protocol.outside import OutsideEffects
from jobq.protocol.states import AttemptEnd, Outcome
from jobq.protocol.values import AttemptError, LeasedAttempt, Record, Recovered

EXPIRED = AttemptError(
    type="jobq.LeaseExpired",
    message="the lease expired with no commit record: the worker crashed, froze or was cut off",
    traceback="",
)

NOT_REPEATED = "not repeated: the task's outside effects happen at most once, and it had begun"


@dataclass(frozen=True, slots=True)
class Ending:
    """How one leased attempt leaves its lease.

    The lease is removed in every case. With `retry_delay_s` the job waits in `scheduled`; when
    it `is_dead` its fate is recorded; when it `is_parked` it waits in `ambiguous`; with none of
    them its fate was recorded before.
    """

    attempt: LeasedAttempt
    end: AttemptEnd
    error: AttemptError | None
    retry_delay_s: float | None
    is_dead: bool
    is_parked: bool = False

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
    if attempt.begun_as is not None and end is not AttemptEnd.SNOOZED:
        # Only the handler's own word, a snooze, has a begun attempt repeated.
        if attempt.begun_as == OutsideEffects.ASK:
            return Ending(attempt, end, error, None, is_dead=False, is_parked=True)
        return Ending(attempt, end, error and _not_repeated(error), None, is_dead=True)
    is_last = attempt.attempt >= attempt.max_attempts and end is not AttemptEnd.SNOOZED
    if retry_delay_s is None or is_last:
        return Ending(attempt, end, error, None, is_dead=True)
    return Ending(attempt, end, error, retry_delay_s, is_dead=False)


def _not_repeated(error: AttemptError) -> AttemptError:
    return replace(error, message=f"{error.message}; {NOT_REPEATED}")


def recovered(endings: Iterable[Ending]) -> Recovered:
    """Sort what a pass of the reconciler did by what it meant for the jobs."""
    healed: list[int] = []
    retried: list[int] = []
    dead: list[int] = []
    parked: list[int] = []
    for ending in endings:
        if ending.is_parked:
            kind = parked
        else:
            kind = dead if ending.is_dead else healed if ending.retry_delay_s is None else retried
        kind.append(ending.attempt.lease.job_id)
    return Recovered(tuple(healed), tuple(retried), tuple(dead), tuple(parked))

"""The closed sets of the protocol: where a job can be, what became of it, how attempts end."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job is. A state is a place (the table its row is in), never a stored column."""

    SCHEDULED = "scheduled"
    """Due later, a retry in its backoff included."""
    WAITING = "waiting"
    """For other jobs."""
    READY = "ready"
    """Due, and waiting for a worker."""
    THROTTLED = "throttled"
    """Due, and waiting for its limits."""
    LEASED = "leased"
    """A worker has it."""
    COMMITTED = "committed"
    """The commit record exists and the lease is still there: the reconciler may finalize it."""
    AMBIGUOUS = "ambiguous"
    """An attempt began outside effects and nobody knows how it ended: a person is asked."""
    DONE = "done"
    """Committed, and its lease is gone."""
    DEAD = "dead"
    """Its attempts are spent, a handler buried it, or its deadline has passed."""
    CANCELLED = "cancelled"
    """By somebody, or since a job that it waited for did not end as it had to."""


class Outcome(StrEnum):
    """A job's one fate, as its commit record names it."""

    COMMITTED = "committed"
    DEAD = "dead"
    CANCELLED = "cancelled"


class AttemptEnd(StrEnum):
    """How an attempt ended, other than by a commit that its own worker finalized."""

    FAILED = "failed"
    """The handler raised."""
    INTERRUPTED = "interrupted"
    """The worker shut down before the handler was done."""
    EXPIRED = "expired"
    """The lease expired with no commit record: the worker crashed, froze or was cut off."""
    SNOOZED = "snoozed"
    """The handler asked for a later time: its job waits for it, and no attempt was spent."""
    REVIVED = "revived"
    """No attempt: a person had the dead job run again, with all its attempts."""
    HEALED = "healed"
    """The lease expired after the commit: the reconciler finalized it; no handler ran again."""


class Stage(StrEnum):
    """The step of an attempt that was refused, as the `refusals` table names it."""

    COMMIT = "commit"
    HEARTBEAT = "heartbeat"
    FAIL = "fail"

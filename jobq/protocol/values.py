"""The values that pass between the steps. Frozen: a step returns new facts, it changes none.

Those that every job makes are named tuples, which cost a fifth of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from jobq.protocol.states import AttemptEnd, Outcome, Stage, State


class UniqueRequest(NamedTuple):
    """What is asked for a job that is to be the only one of its kind; see `Unique`."""

    key: str
    until: str
    within_s: float | None
    on_conflict: str


class JobRequest(NamedTuple):
    """A job to be: what `enqueue` writes."""

    task: str
    args: str
    """The arguments as a JSON object, already checked."""
    queue: str
    priority: int
    max_attempts: int
    run_at: datetime | None
    """When it is due; None for now."""
    delay_s: float
    """Seconds from now, by the database's clock, when `run_at` is None."""
    line: str | None = None
    """Where it waits once it is due, when its task has limits; None for its queue."""
    unique: UniqueRequest | None = None
    after: tuple[int, ...] = ()
    """The jobs it waits for: ids, or how far back they stand in the list of requests (-1, ...)."""
    deadline: datetime | float | None = None
    """When it is not to begin any more; a number is seconds from its enqueueing."""
    when: str = "done"
    """See `When`."""
    headers: str | None = None
    """What middleware sends along, as a JSON object of strings."""
    args_digest: str | None = None
    """Of the arguments and the key, when `args` are encrypted: those differ every time."""


class Lease(NamedTuple):
    """The right to run one attempt of a job. Every write of the attempt names both numbers."""

    job_id: int
    token: int


class Recorded(NamedTuple):
    """A commit record that was written and not yet committed."""

    lease: Lease
    transaction: int
    """The transaction that wrote it, where the database numbers them; else 0."""


class ClaimedJob(NamedTuple):
    """A job this worker leased, with all that its handler needs."""

    lease: Lease
    queue: str
    task: str
    args: str
    priority: int
    due_at: datetime
    attempt: int
    max_attempts: int
    idempotency_key: UUID
    created_at: datetime
    acquired_at: datetime
    headers: str | None = None


class Position(NamedTuple):
    """A place in a queue's line, in the order in which jobs are claimed."""

    priority: int
    due_at: datetime
    job_id: int


HEAD = Position(-32_768, datetime(1, 1, 1, tzinfo=UTC), 0)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker asks for."""

    worker: str
    queues: Sequence[str]
    """In the order in which they are to be served."""
    tasks: Sequence[str]
    limit: int
    lease_s: float
    since: Mapping[str, Position] = field(default_factory=dict)
    """Where to begin in a queue's line, for those that need not be looked through from the head."""
    only: Sequence[int] | None = None
    """Of which jobs; None for any."""


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What came of handing in what ended and asking for what is next."""

    claimed: list[ClaimedJob]
    unrecorded: list[Lease]
    """Attempts without an effect whose return wrote no record: refused, or told before."""


@dataclass(frozen=True, slots=True)
class AttemptError:
    """What ended an attempt, as it is stored: text that any database takes, of bounded size."""

    type: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A worker's report that its attempt did not commit."""

    lease: Lease
    end: AttemptEnd
    error: AttemptError | None
    """None when its handler asked for a later time."""
    retry_delay_s: float | None
    """Seconds until the next attempt; None to bury the job now, whatever attempts are left."""


@dataclass(frozen=True, slots=True)
class LeasedAttempt:
    """A lease as a step finds and locks it."""

    lease: Lease
    attempt: int
    max_attempts: int
    task: str
    begun_as: str | None = None
    """The task's policy for outside effects, once its handler has begun; None before, and for
    tasks that are simply run again."""


@dataclass(frozen=True, slots=True)
class Record:
    """A commit record."""

    token: int
    outcome: Outcome

    @property
    def is_cancelled(self) -> bool:
        return self.outcome is Outcome.CANCELLED


@dataclass(frozen=True, slots=True)
class RefusedReport:
    """A report that changed nothing, and why: `record` is the fate found, None a lost lease."""

    lease: Lease
    stage: Stage
    record: Record | None

    @property
    def reason(self) -> str:
        return "lease_lost" if self.record is None else f"already_{self.record.outcome.value}"


@dataclass(frozen=True, slots=True)
class Reported:
    """What became of a group of failure reports; those not named were taken."""

    refused: tuple[RefusedReport, ...]
    busy: frozenset[Lease]
    """Their lease rows are locked by another session for the moment: report them again later."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a heartbeat learned of the leases it named."""

    lost: frozenset[Lease]
    """Gone: their attempts can change nothing any more."""
    cancelled: frozenset[Lease]
    """Still held, but the job was cancelled: their handlers should stop."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What one pass of the reconciler did, in jobs."""

    healed: tuple[int, ...] = ()
    """Committed but not finalized: now done, without running the handler again."""
    retried: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()
    parked: tuple[int, ...] = ()
    """Begun, with a policy to ask: now ambiguous."""

    @property
    def by_fate(self) -> dict[str, tuple[int, ...]]:
        """The jobs by what became of them."""
        return {
            "healed": self.healed,
            "retried": self.retried,
            "dead": self.dead,
            "ambiguous": self.parked,
        }

    @property
    def total(self) -> int:
        return len(self.healed) + len(self.retried) + len(self.dead) + len(self.parked)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job and the place it is in."""

    id: int
    state: State
    """Where it is."""
    queue: str
    """The line that it waits or waited in."""
    task: str
    """The name under which it is stored."""
    args: str
    """Its arguments as JSON; encrypted where they are."""
    priority: int
    """Smaller runs first."""
    attempts: int
    """Attempts spent so far, the running one included."""
    max_attempts: int
    """How many it has in all."""
    idempotency_key: UUID
    """The same for every attempt, and never used for another job."""
    created_at: datetime
    """When it was enqueued."""
    due_at: datetime | None
    """When it is or was last due; None once its fate is sealed."""
    worker: str | None
    """Who holds its lease, if anyone does."""
    lease_expires_at: datetime | None
    """Until when that lease lasts, unless it is extended."""
    recorded_at: datetime | None
    """When its fate was recorded."""
    result: str | None
    """What its handler returned, as JSON; None when nothing was kept."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a job."""

    task: str
    outcome: Outcome
    result: str | None
    """What its handler returned, as JSON; None when nothing was kept."""
    error: AttemptError | None
    """What ended its last attempt, when it is dead."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job says that it has come."""

    fraction: float | None
    """From 0 to 1."""
    note: str | None
    attempt: int
    """The attempt that said so."""
    reported_at: datetime


@dataclass(frozen=True, slots=True)
class DeadJob:
    """A job that is dead: its attempts are spent, or its handler buried it."""

    id: int
    token: int
    """The last lease token it died under: what is decided about it holds for this death."""
    task: str
    queue: str
    args: str
    priority: int
    max_attempts: int
    created_at: datetime
    died_at: datetime
    error: AttemptError | None
    """What ended its last attempt."""


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead jobs are meant; None for any."""

    task: str | None = None
    queue: str | None = None
    error_type: str | None = None


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """One line of a job's history."""

    token: int
    attempt: int
    worker: str
    started_at: datetime
    ended_at: datetime
    end: AttemptEnd
    error: AttemptError | None
    lease_expires_at: datetime | None
    """Until when its lease would have lasted; None where there was none."""

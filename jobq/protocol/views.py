"""What is shown of jobs and workers to those who look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from json import dumps, loads
from typing import Self

from jobq.protocol.outside import RecordedStep
from jobq.protocol.states import AttemptEnd, Outcome, Stage, State
from jobq.protocol.values import EndedAttempt, JobStatus, Progress


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs are meant; None for any."""

    state: State | None = None
    queue: str | None = None
    task: str | None = None
    """As it is stored: `charge@2` for a task's second version."""
    text: str | None = None
    """Contained in the arguments as JSON."""


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job in a list."""

    id: int
    state: State
    queue: str
    task: str
    args: str
    priority: int
    max_attempts: int
    created_at: datetime
    worker: str | None
    """Who has it, or committed it."""
    acquired_at: datetime | None
    """When the attempt that runs, or that committed, was claimed."""
    recorded_at: datetime | None
    """When its fate was recorded."""


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs, the newest first."""

    jobs: Sequence[JobSummary]
    before: int | None
    """Where the next page begins; None when this is the last."""


@dataclass(frozen=True, slots=True)
class LiveLease:
    """A lease as it stands."""

    token: int
    attempt: int
    worker: str
    due_at: datetime
    acquired_at: datetime
    lease_expires_at: datetime
    is_expired: bool


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """A job's one fate, and what the lease that committed it knew."""

    outcome: Outcome
    token: int
    recorded_at: datetime
    worker: str | None
    due_at: datetime | None
    acquired_at: datetime | None


@dataclass(frozen=True, slots=True)
class RefusedAttempt:
    """An attempt that came too late with something, and changed nothing."""

    token: int
    stage: Stage
    worker: str
    reason: str
    refused_at: datetime


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing in a job's life."""

    at: datetime
    what: str
    """`enqueued`, `claimed`, `failed`, `expired`, `refused`, `committed`, ..."""
    token: int | None = None
    attempt: int | None = None
    worker: str | None = None
    details: str = ""


@dataclass(frozen=True, slots=True)
class JobLife:
    """Everything that is known of a job."""

    status: JobStatus
    headers: str | None
    attempts: Sequence[EndedAttempt]
    refusals: Sequence[RefusedAttempt]
    lease: LiveLease | None
    record: CommitRecord | None
    steps: Sequence[RecordedStep]
    progress: Progress | None
    deadline_at: datetime | None
    waits_for: Sequence[int]
    is_waited_for_by: Sequence[int]

    @property
    def finalized_by(self) -> str | None:
        """Who made COMMITTED into DONE: the worker that committed, or a reconciler."""
        record = self.record
        if record is None or record.outcome is not Outcome.COMMITTED or self.lease is not None:
            return None
        healed = any(one.end is AttemptEnd.HEALED for one in self.attempts)
        return "the reconciler" if healed else record.worker or "its worker"

    @property
    def happenings(self) -> Sequence[Happening]:
        """Its life, in the order of the database's clock."""
        told = [Happening(self.status.created_at, "enqueued")]
        for one in self.attempts:
            if one.attempt and one.worker:
                told.append(
                    Happening(one.started_at, "claimed", one.token, one.attempt, one.worker)
                )
            told.append(
                Happening(one.ended_at, one.end.value, one.token, one.attempt, one.worker, _of(one))
            )
        told += [
            Happening(
                one.refused_at,
                "refused",
                one.token,
                None,
                one.worker,
                f"at its {one.stage.value}: {one.reason.replace('_', ' ')}; it changed nothing",
            )
            for one in self.refusals
        ]
        told += [
            Happening(one.recorded_at, "step", one.token, None, None, one.name)
            for one in self.steps
        ]
        told += self._of_lease()
        told += self._of_record()
        # What happened at one moment is told in the order in which it has to have happened.
        return sorted(told, key=lambda one: (one.at, one.token or 0, one.what != "claimed"))

    def _of_lease(self) -> list[Happening]:
        lease = self.lease
        if lease is None:
            return []
        is_over = "has been over since" if lease.is_expired else "lasts until"
        return [
            Happening(
                lease.acquired_at,
                "claimed",
                lease.token,
                lease.attempt,
                lease.worker,
                f"its lease {is_over} {lease.lease_expires_at:%H:%M:%S}",
            )
        ]

    def _of_record(self) -> list[Happening]:
        record = self.record
        if record is None:
            return []
        told = []
        # It is not in the history, and there is none after it.
        attempt = self.status.attempts if record.outcome is Outcome.COMMITTED else None
        is_told = self.lease is not None or any(
            one.token == record.token and one.worker for one in self.attempts
        )
        if record.acquired_at is not None and not is_told:
            told.append(
                Happening(record.acquired_at, "claimed", record.token, attempt, record.worker)
            )
        finalized = self.finalized_by
        told.append(
            Happening(
                record.recorded_at,
                record.outcome.value,
                record.token,
                attempt,
                record.worker,
                f"finalized by {finalized}" if finalized else "",
            )
        )
        return told


def _of(attempt: EndedAttempt) -> str:
    if attempt.end is AttemptEnd.EXPIRED and attempt.lease_expires_at is not None:
        return (
            f"no heartbeat came: its lease was over at {attempt.lease_expires_at:%H:%M:%S}, "
            "with no commit record"
        )
    if attempt.end is AttemptEnd.HEALED:
        return "it had committed, and nobody finalized it: the reconciler did"
    if attempt.error is not None:
        return f"{attempt.error.type}: {attempt.error.message}"
    return ""


@dataclass(frozen=True, slots=True)
class WorkerAbout:
    """What a worker says of itself when it starts."""

    queues: Sequence[str] | None
    """None for all of them."""
    concurrency: int
    lease_s: float
    tasks: int
    version: str

    def encode(self) -> str:
        return dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker, as the database knows it."""

    id: str
    started_at: datetime
    seen_at: datetime
    stopped_at: datetime | None
    """When it said goodbye."""
    about: WorkerAbout | None
    leases: int
    """How many it holds."""
    silent_s: float
    """Seconds since it was seen."""

    @classmethod
    def read(
        cls,
        worker: str,
        started_at: datetime,
        seen_at: datetime,
        stopped_at: datetime | None,
        about: str | None,
        *,
        leases: int,
        silent_s: float,
    ) -> Self:
        told: Mapping[str, object] | None = None if about is None else loads(about)
        return cls(
            worker,
            started_at,
            seen_at,
            stopped_at,
            None if told is None else WorkerAbout(**told),  # type: ignore[arg-type]
            leases,
            silent_s,
        )

    @property
    def state(self) -> str:
        """`alive`, `stopped`, or `lost`: silent for longer than its leases last."""
        if self.stopped_at is not None:
            return "stopped"
        lease_s = 60.0 if self.about is None else self.about.lease_s
        return "lost" if self.silent_s > lease_s else "alive"


@dataclass(frozen=True, slots=True)
class Minute:
    """What happened within a minute."""

    at: datetime
    enqueued: int
    committed: int
    dead: int
    cancelled: int
    waited_s: tuple[float | None, float | None]
    """From due to claimed, of those that were committed: median and 95th percentile."""
    ran_s: tuple[float | None, float | None]
    """From claimed to committed: the same."""


@dataclass(frozen=True, slots=True)
class Recent:
    """How it has gone lately."""

    at: datetime
    counts: Mapping[State, int]
    """How many jobs are in each state now; of those that ended, the dead alone."""
    minutes: Sequence[Minute]

    @property
    def depths(self) -> Sequence[int]:
        """How many jobs were under way at the end of each minute."""
        depth = sum(count for state, count in self.counts.items() if state is not State.DEAD)
        depths = []
        for minute in reversed(self.minutes):
            depths.append(max(0, depth))
            ended = minute.committed + minute.dead + minute.cancelled
            depth += ended - minute.enqueued
        return depths[::-1]

    def following(self, known: Recent) -> Recent:
        """What was asked anew, with the minutes before it as they were known, as many in all."""
        first = self.minutes[0].at
        minutes = [*(minute for minute in known.minutes if minute.at < first), *self.minutes]
        most = max(len(known.minutes), len(self.minutes))
        return replace(self, minutes=minutes[-most:])


@dataclass(frozen=True, slots=True)
class AuditedAction:
    """Something that somebody did by hand."""

    done_at: datetime
    actor: str
    action: str
    """`queue.pause`, `job.cancel`, ..."""
    subject: str
    """The job's id, the name of the queue or of the schedule."""
    details: str | None


@dataclass(frozen=True, slots=True)
class OpenLease:
    """A lease in a list."""

    job_id: int
    task: str
    token: int
    attempt: int
    worker: str
    acquired_at: datetime
    lease_expires_at: datetime
    is_expired: bool
    has_fate: bool
    """COMMITTED and not yet DONE; or cancelled, and not yet told."""


@dataclass(frozen=True, slots=True)
class LateAttempt:
    """A refused attempt in a list."""

    job_id: int
    token: int
    stage: str
    worker: str
    reason: str
    refused_at: datetime


@dataclass(frozen=True, slots=True)
class RecoveredAttempt:
    """An attempt that a reconciler ended."""

    job_id: int
    token: int
    worker: str
    end: AttemptEnd
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Integrity:
    """Whether the promise is kept, and what keeping it took."""

    leases_held: int
    leases_expired: int
    committed_not_done: int
    refused: Mapping[str, int]
    """Attempts that were refused in the last 24 hours, by reason."""
    recovered: Mapping[AttemptEnd, int]
    """Attempts that reconcilers ended in the last 24 hours: healed, or expired."""
    leases: Sequence[OpenLease]
    """Some of those held, the first to expire first."""
    late: Sequence[LateAttempt]
    recoveries: Sequence[RecoveredAttempt]

"""The schema, in SQLAlchemy: the source of truth that Alembic migrates both backends to.

A job is where its row is. `jobs` never changes; a job waits in `scheduled` or `ready`, runs in
`leases`, and meets its one fate in `commit_records`. See docs/schema.md.

On PostgreSQL the tables live in a schema of their own (`jobq`); SQLite has no schemas, so there
they carry the prefix `jobq_` and sit beside the service's tables in its one file: an effect and
its commit record can only be one transaction inside one file.

A key that names a job begins with the job, not with its shard: of a list of jobs behind another
column PostgreSQL before 17 may make a filter, where it thinks the table small, and read all of the
shard for a few of them.

No foreign keys: the protocol's statements keep the places consistent (and the invariant queries
check it), while each key would add a lookup and a row lock to every step of every job.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from types import MappingProxyType
from typing import cast
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import JSON, TypeDecorator, TypeEngine

DEFAULT_SCHEMA = "jobq"
SQLITE_PREFIX = "jobq_"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Instant(TypeDecorator[datetime]):
    """A point in time: `timestamptz` on PostgreSQL, milliseconds since 1970 on SQLite.

    SQLite compares text timestamps letter by letter ('2026-11-23 06:00' sorts before
    '2026-11-23T05:00'), so there a time is a number.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[datetime] | TypeEngine[int]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(BigInteger())
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> object:
        if value is not None and dialect.name == "sqlite":
            return (value - _EPOCH) // timedelta(milliseconds=1)
        return value

    def process_result_value(self, value: object, dialect: Dialect) -> datetime | None:
        if isinstance(value, int):
            return _EPOCH + timedelta(milliseconds=value)
        return value if isinstance(value, datetime) else None


NOW = text("clock_timestamp()")

# Dead rows at the head of a claim are a queue's disease; vacuum by count, not by share.
_CHURN = {"autovacuum_vacuum_scale_factor": "0", "autovacuum_vacuum_threshold": "10000"}


class Base(DeclarativeBase):
    metadata = MetaData(
        schema=DEFAULT_SCHEMA,
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        },
    )


def _shard() -> Mapped[int]:
    return mapped_column(SmallInteger, primary_key=True, server_default=text("0"))


def _job_id() -> Mapped[int]:
    return mapped_column(BigInteger, primary_key=True, autoincrement=False)


def _in_order_of_time(name: str, column: str) -> Index:
    """Where rows are appended as time goes by, what is recent is found by an index of a few pages,
    to which an insert adds nothing. SQLite has none of the kind."""
    return Index(name, column, postgresql_using="brin", info={"backend": "postgresql"})


class Job(Base):
    """One request to run a task with arguments. Written once, never updated."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("max_attempts >= 1", name="max_attempts"),
        _in_order_of_time("jobq_jobs_created_brin", "created_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    shard: Mapped[int] = _shard()
    queue: Mapped[str] = mapped_column(Text)
    task: Mapped[str] = mapped_column(Text)
    # json, not jsonb: what was enqueued is what the handler gets, digit for digit.
    args: Mapped[object] = mapped_column(JSON().with_variant(Text(), "sqlite"))
    priority: Mapped[int] = mapped_column(SmallInteger)
    max_attempts: Mapped[int] = mapped_column(SmallInteger)
    # Random, never derived from the id: a sequence can issue an id twice after a failover.
    idempotency_key: Mapped[UUID] = mapped_column(Uuid().with_variant(String(36), "sqlite"))
    created_at: Mapped[datetime] = mapped_column(Instant)
    line: Mapped[str | None] = mapped_column(Text)
    """Where it waits when it is due: `throttled`, in this line. NULL for `ready`."""
    headers: Mapped[str | None] = mapped_column(Text)
    """What middleware sends along (a trace, a tenant), as a JSON object of strings."""


class Scheduled(Base):
    """A job that is due later; a retry in its backoff waits here too."""

    __tablename__ = "scheduled"
    # Without the shard: an index that it leads would do for any job of a shard, however badly, and
    # a plan made while the table was small prefers it to the key.
    __table_args__ = (Index("jobq_scheduled_run_at_idx", "run_at"),)

    job_id: Mapped[int] = _job_id()
    shard: Mapped[int] = _shard()
    run_at: Mapped[datetime] = mapped_column(Instant)
    attempts: Mapped[int] = mapped_column(SmallInteger)
    """Attempts spent so far."""
    token: Mapped[int] = mapped_column(BigInteger)
    """The last lease token issued for this job; 0 when it was never claimed."""


class Ready(Base):
    """A job that is due now: the only table a claim scans. Rows are inserted and deleted, never
    updated, so that a lock on a row decides the claim by itself."""

    __tablename__ = "ready"
    __table_args__ = ({"postgresql_with": _CHURN},)

    shard: Mapped[int] = _shard()
    queue: Mapped[str] = mapped_column(Text, primary_key=True)
    priority: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    due_at: Mapped[datetime] = mapped_column(Instant, primary_key=True)
    job_id: Mapped[int] = _job_id()
    task: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(SmallInteger)
    token: Mapped[int] = mapped_column(BigInteger)


class Lease(Base):
    """The right to run one attempt of a job, until `lease_expires_at`."""

    __tablename__ = "leases"
    __table_args__ = (
        Index("jobq_leases_expiry_idx", "lease_expires_at"),
        {"postgresql_with": _CHURN},
    )

    job_id: Mapped[int] = _job_id()
    shard: Mapped[int] = _shard()
    token: Mapped[int] = mapped_column(BigInteger)
    attempt: Mapped[int] = mapped_column(SmallInteger)
    worker: Mapped[str] = mapped_column(Text)
    due_at: Mapped[datetime] = mapped_column(Instant)
    acquired_at: Mapped[datetime] = mapped_column(Instant)
    lease_expires_at: Mapped[datetime] = mapped_column(Instant)
    begun_as: Mapped[str | None] = mapped_column(Text)
    """The task's policy for outside effects, once its handler has begun: whoever ends the lease
    may not know the task. Not indexed, so that to set it moves no index entry."""


class CommitRecord(Base):
    """A job's one fate. The primary key is the promise: the first to insert decides."""

    __tablename__ = "commit_records"
    __table_args__ = (
        CheckConstraint("outcome IN ('committed', 'dead', 'cancelled')", name="outcome"),
        # Of the dead alone: the others pay for no index.
        Index(
            "jobq_dead_idx",
            "job_id",
            postgresql_where=text("outcome = 'dead'"),
            sqlite_where=text("outcome = 'dead'"),
        ),
        _in_order_of_time("jobq_commit_records_brin", "recorded_at"),
    )

    job_id: Mapped[int] = _job_id()
    shard: Mapped[int] = _shard()
    outcome: Mapped[str] = mapped_column(Text)
    token: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(Instant)
    # Text, not json: what was recorded is what is read.
    result: Mapped[str | None] = mapped_column(Text)
    # Of the lease under which it was committed, which goes when the job is done.
    worker: Mapped[str | None] = mapped_column(Text)
    due_at: Mapped[datetime | None] = mapped_column(Instant)
    acquired_at: Mapped[datetime | None] = mapped_column(Instant)


class Attempt(Base):
    """The history of attempts that did not end in a commit their own worker finalized."""

    __tablename__ = "attempts"
    __table_args__ = (
        CheckConstraint(
            "outcome IN ('failed', 'interrupted', 'expired', 'snoozed', 'healed', 'revived')",
            name="outcome",
        ),
    )

    job_id: Mapped[int] = _job_id()
    shard: Mapped[int] = _shard()
    token: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    attempt: Mapped[int] = mapped_column(SmallInteger)
    worker: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(Instant)
    ended_at: Mapped[datetime] = mapped_column(Instant)
    outcome: Mapped[str] = mapped_column(Text)
    error_type: Mapped[str | None] = mapped_column(Text)
    error_message: Mapped[str | None] = mapped_column(Text)
    traceback: Mapped[str | None] = mapped_column(Text)
    lease_expires_at: Mapped[datetime | None] = mapped_column(Instant)
    """Until when its lease would have lasted, as the last heartbeat had it."""


class RefusedAttempt(Base):
    """An audit of attempts that came too late: who was refused, at which step, and why."""

    __tablename__ = "refusals"

    job_id: Mapped[int] = _job_id()
    shard: Mapped[int] = _shard()
    token: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    stage: Mapped[str] = mapped_column(Text, primary_key=True)
    worker: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    refused_at: Mapped[datetime] = mapped_column(Instant)


class Worker(Base):
    """A process that runs jobs: when it was last seen, and whether it said goodbye."""

    __tablename__ = "workers"

    shard: Mapped[int] = _shard()
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    started_at: Mapped[datetime] = mapped_column(Instant)
    seen_at: Mapped[datetime] = mapped_column(Instant)
    stopped_at: Mapped[datetime | None] = mapped_column(Instant)
    about: Mapped[str | None] = mapped_column(Text)
    """What it serves, as JSON; see `WorkerAbout`."""


class IdleWorker(Base):
    """PostgreSQL only: who listens because it found nothing to do. An enqueue notifies only when
    somebody is here, since every NOTIFY takes one lock for the whole server at COMMIT. Unlogged:
    after a crash of the server nobody listens."""

    __tablename__ = "idle_workers"
    __table_args__ = ({"info": {"backend": "postgresql"}, "prefixes": ["UNLOGGED"]},)

    shard: Mapped[int] = _shard()
    worker: Mapped[str] = mapped_column(Text, primary_key=True)
    queues: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    """Those it serves; all of them when NULL."""
    since: Mapped[datetime] = mapped_column(Instant)


class JobSequence(Base):
    """SQLite only: the counter job ids come from. Ids must never be reused (a zombie of an old
    job 7 must not meet a new job 7), and AUTOINCREMENT cannot sit in a two-column key."""

    __tablename__ = "job_sequence"
    __table_args__ = ({"info": {"backend": "sqlite"}},)

    shard: Mapped[int] = _shard()
    last_id: Mapped[int] = mapped_column(BigInteger)


class Throttled(Base):
    """A job that is due and subject to limits: it is claimed under the locks of its line's keys."""

    __tablename__ = "throttled"
    __table_args__ = (
        Index("jobq_throttled_line_idx", "line", "priority", "due_at", "job_id"),
        {"postgresql_with": _CHURN},
    )

    job_id: Mapped[int] = _job_id()
    shard: Mapped[int] = _shard()
    line: Mapped[str] = mapped_column(Text)
    """Its queue and the keys of its limits, as JSON."""
    priority: Mapped[int] = mapped_column(SmallInteger)
    due_at: Mapped[datetime] = mapped_column(Instant)
    task: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(SmallInteger)
    token: Mapped[int] = mapped_column(BigInteger)


class Waiting(Base):
    """A job that waits for others. Whoever takes away one of its dependencies holds its row."""

    __tablename__ = "waiting"

    job_id: Mapped[int] = _job_id()
    shard: Mapped[int] = _shard()
    runs_when: Mapped[str] = mapped_column(Text)
    run_at: Mapped[datetime | None] = mapped_column(Instant)
    """When it is due, once it waits no more; NULL for `delay_s` after that."""
    delay_s: Mapped[float] = mapped_column(Double)
    token: Mapped[int] = mapped_column(BigInteger)


class Dependency(Base):
    """A job that another waits for, and which has no fate yet."""

    __tablename__ = "dependencies"
    __table_args__ = (Index("jobq_dependencies_job_idx", "job_id"),)

    needs_job_id: Mapped[int] = _job_id()
    shard: Mapped[int] = _shard()
    job_id: Mapped[int] = _job_id()


class DeclaredLimit(Base):
    """A limit as the code that was started last declares it."""

    __tablename__ = "limits"

    shard: Mapped[int] = _shard()
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    concurrency: Mapped[int | None] = mapped_column(Integer)
    per_second: Mapped[float | None] = mapped_column(Double)
    most_tokens: Mapped[int | None] = mapped_column(Integer)


class LimitKey(Base):
    """What is counted under one key of a limit. Whoever claims under it holds its row's lock."""

    __tablename__ = "limit_keys"

    shard: Mapped[int] = _shard()
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    tokens: Mapped[float | None] = mapped_column(Double)
    """In the bucket, at `counted_at`; NULL for a full one."""
    counted_at: Mapped[datetime] = mapped_column(Instant)


class QueuePause(Base):
    """A queue of which no job is to begin."""

    __tablename__ = "pauses"

    shard: Mapped[int] = _shard()
    queue: Mapped[str] = mapped_column(Text, primary_key=True)
    paused_at: Mapped[datetime] = mapped_column(Instant)
    resumes_at: Mapped[datetime | None] = mapped_column(Instant)
    """When its pause ends by itself; NULL for never."""


class Slot(Base):
    """A lease counted under a key. It counts for as long as the lease is there, and is cleared away
    by the next claim under the key."""

    __tablename__ = "slots"

    shard: Mapped[int] = _shard()
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    job_id: Mapped[int] = _job_id()
    token: Mapped[int] = mapped_column(BigInteger)


class Step(Base):
    """A result that a handler had recorded under a name, once, for later attempts to find."""

    __tablename__ = "steps"

    job_id: Mapped[int] = _job_id()
    shard: Mapped[int] = _shard()
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    token: Mapped[int] = mapped_column(BigInteger)
    # Text, not json: what was recorded is what a later attempt gets.
    result: Mapped[str] = mapped_column(Text)
    recorded_at: Mapped[datetime] = mapped_column(Instant)


class Ambiguous(Base):
    """A job that waits for a person: its attempt began outside effects, and how it ended is not
    known. The attempt itself is in `attempts`, under the same token."""

    __tablename__ = "ambiguous"

    job_id: Mapped[int] = _job_id()
    shard: Mapped[int] = _shard()
    token: Mapped[int] = mapped_column(BigInteger)
    attempt: Mapped[int] = mapped_column(SmallInteger)
    parked_at: Mapped[datetime] = mapped_column(Instant)


class Deadline(Base):
    """When a job is not to begin any more."""

    __tablename__ = "deadlines"
    __table_args__ = (Index("jobq_deadlines_idx", "deadline_at"),)

    job_id: Mapped[int] = _job_id()
    shard: Mapped[int] = _shard()
    deadline_at: Mapped[datetime] = mapped_column(Instant)


class ReportedProgress(Base):
    """How far a job's handler said last that it has come."""

    __tablename__ = "progress"

    job_id: Mapped[int] = _job_id()
    shard: Mapped[int] = _shard()
    attempt: Mapped[int] = mapped_column(SmallInteger)
    fraction: Mapped[float | None] = mapped_column(Double)
    note: Mapped[str | None] = mapped_column(Text)
    reported_at: Mapped[datetime] = mapped_column(Instant)


class PeriodicSchedule(Base):
    """A periodic job: when, and what. Whoever makes its jobs holds its row."""

    __tablename__ = "schedules"

    shard: Mapped[int] = _shard()
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    cron: Mapped[str] = mapped_column(Text)
    timezone: Mapped[str] = mapped_column(Text)
    missed: Mapped[str] = mapped_column(Text)
    task: Mapped[str] = mapped_column(Text)
    args: Mapped[str] = mapped_column(Text)
    queue: Mapped[str] = mapped_column(Text)
    priority: Mapped[int] = mapped_column(SmallInteger)
    max_attempts: Mapped[int] = mapped_column(SmallInteger)
    line: Mapped[str | None] = mapped_column(Text)
    next_tick_at: Mapped[datetime | None] = mapped_column(Instant)
    paused_at: Mapped[datetime | None] = mapped_column(Instant)
    declared: Mapped[str | None] = mapped_column(Text)
    """What the code said when it was last written from there."""


class Tick(Base):
    """A tick of a schedule that has its job. The primary key is the promise: one job for each."""

    __tablename__ = "ticks"

    shard: Mapped[int] = _shard()
    schedule: Mapped[str] = mapped_column(Text, primary_key=True)
    tick_at: Mapped[datetime] = mapped_column(Instant, primary_key=True)
    job_id: Mapped[int] = mapped_column(BigInteger)


class AuditedAction(Base):
    """What somebody did by hand: written by the transaction that did it."""

    __tablename__ = "audit"
    __table_args__ = (Index("jobq_audit_idx", "done_at"),)

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    shard: Mapped[int] = _shard()
    done_at: Mapped[datetime] = mapped_column(Instant)
    actor: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    subject: Mapped[str] = mapped_column(Text)
    """What it was done to: a job's id, a queue's or a schedule's name."""
    details: Mapped[str | None] = mapped_column(Text)


class UniqueKey(Base):
    """Whose job a key of unique jobs is. Written by enqueues and by pruning alone."""

    __tablename__ = "unique_keys"
    __table_args__ = (Index("jobq_unique_keys_job_idx", "job_id"),)

    shard: Mapped[int] = _shard()
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    job_id: Mapped[int] = mapped_column(BigInteger)


def metadata_for(backend: str, schema: str = DEFAULT_SCHEMA) -> MetaData:
    """The tables as they stand on `backend` ("postgresql" or "sqlite"), for Alembic to compare."""
    metadata = MetaData(naming_convention=Base.metadata.naming_convention)
    for table in Base.metadata.sorted_tables:
        if table.info.get("backend", backend) != backend:
            continue
        if backend == "sqlite":
            # SQLAlchemy's type for `schema` leaves out None, which its documentation gives.
            copy = table.to_metadata(
                metadata, schema=cast(str, None), name=SQLITE_PREFIX + table.name
            )
        else:
            copy = table.to_metadata(metadata, schema=schema)
        original = {index.name: index for index in table.indexes}
        for index in list(copy.indexes):
            if original[index.name].info.get("backend", backend) != backend:
                copy.indexes.remove(index)
    return metadata


@cache
def tables_for(backend: str, schema: str = DEFAULT_SCHEMA) -> Mapping[str, Table]:
    """The same tables by their bare names: {"jobs": ..., "ready": ...}. For reading only: they are
    those of everybody who asks."""
    metadata = metadata_for(backend, schema)
    return MappingProxyType(
        {table.name.removeprefix(SQLITE_PREFIX): table for table in metadata.sorted_tables}
    )


__all__ = [
    "DEFAULT_SCHEMA",
    "SQLITE_PREFIX",
    "Ambiguous",
    "Attempt",
    "AuditedAction",
    "Base",
    "CommitRecord",
    "Deadline",
    "DeclaredLimit",
    "Dependency",
    "IdleWorker",
    "Instant",
    "Job",
    "JobSequence",
    "Lease",
    "LimitKey",
    "PeriodicSchedule",
    "QueuePause",
    "Ready",
    "RefusedAttempt",
    "ReportedProgress",
    "Scheduled",
    "Slot",
    "Step",
    "Throttled",
    "Tick",
    "UniqueKey",
    "Waiting",
    "Worker",
    "metadata_for",
    "tables_for",
]

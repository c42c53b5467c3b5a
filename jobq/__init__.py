"""jobq: a job queue on PostgreSQL and SQLite whose effects happen exactly once.

app = JobQueue("postgresql://localhost/shop")

@app.task(queue="billing")
def charge(db: Session, order_id: int, cents: int) -> None:
    db.execute(insert(ledger).values(order_id=order_id, cents=cents))

charge.enqueue(order_id=7, cents=999)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobq.client import (
        JobQueue,
    )
    from jobq.commit import (
        commit_effect_idempotent,
        commit_effect_idempotent_async,
    )
    from jobq.errors import (
        AlreadyCommitted,
        ArgumentsTooLarge,
        DatabaseUnavailable,
        EffectOutcomeUnknown,
        EffectRolledBack,
        InvalidApp,
        InvalidArguments,
        InvalidDatabaseURL,
        InvalidHeaders,
        InvalidOption,
        InvalidResult,
        InvalidStep,
        InvalidTask,
        JobExists,
        JobFailed,
        JobInNoPlace,
        JobNotFound,
        JobqError,
        KeyMissing,
        LeaseLost,
        MissingExtra,
        NotMigrated,
        NotPermitted,
        ProcessDied,
        Refusal,
        ScheduleNotFound,
        SchemaTooNew,
        TimedOut,
        UnreadableArguments,
        UnsupportedConnection,
        UnsupportedDatabase,
    )
    from jobq.job import (
        Bury,
        Job,
        Snooze,
    )
    from jobq.middleware import (
        AttemptOutcome,
        AttemptResult,
        EffectEvent,
        Middleware,
    )
    from jobq.protocol.breaker import (
        Breaker,
    )
    from jobq.protocol.flow import (
        When,
        chain,
        group,
    )
    from jobq.protocol.limits import (
        Limit,
    )
    from jobq.protocol.outside import (
        AmbiguousJob,
        OutsideEffects,
        RecordedStep,
        Resolution,
    )
    from jobq.protocol.retention import (
        Retention,
    )
    from jobq.protocol.retry import (
        Budget,
        On,
        Retry,
    )
    from jobq.protocol.schedule import (
        Missed,
        Schedule,
    )
    from jobq.protocol.states import (
        AttemptEnd,
        Outcome,
        State,
    )
    from jobq.protocol.unique import (
        Unique,
    )
    from jobq.protocol.values import (
        DeadJob,
        EndedAttempt,
        JobRequest,
        JobStatus,
        Progress,
    )
    from jobq.store.pauses import (
        QueueStatus,
    )
    from jobq.store.schedules import (
        ScheduleStatus,
    )
    from jobq.task import (
        JobHandle,
        Task,
    )
    from jobq.worker import (
        Worker,
        WorkerOptions,
    )

__version__ = "0.1.0"

__all__ = [
    "AlreadyCommitted",
    "AmbiguousJob",
    "ArgumentsTooLarge",
    "AttemptEnd",
    "AttemptOutcome",
    "AttemptResult",
    "Breaker",
    "Budget",
    "Bury",
    "DatabaseUnavailable",
    "DeadJob",
    "EffectEvent",
    "EffectOutcomeUnknown",
    "EffectRolledBack",
    "EndedAttempt",
    "InvalidApp",
    "InvalidArguments",
    "InvalidDatabaseURL",
    "InvalidHeaders",
    "InvalidOption",
    "InvalidResult",
    "InvalidStep",
    "InvalidTask",
    "Job",
    "JobExists",
    "JobFailed",
    "JobHandle",
    "JobInNoPlace",
    "JobNotFound",
    "JobQueue",
    "JobRequest",
    "JobStatus",
    "JobqError",
    "KeyMissing",
    "LeaseLost",
    "Limit",
    "Middleware",
    "Missed",
    "MissingExtra",
    "NotMigrated",
    "NotPermitted",
    "On",
    "Outcome",
    "OutsideEffects",
    "ProcessDied",
    "Progress",
    "QueueStatus",
    "RecordedStep",
    "Refusal",
    "Resolution",
    "Retention",
    "Retry",
    "Schedule",
    "ScheduleNotFound",
    "ScheduleStatus",
    "SchemaTooNew",
    "Snooze",
    "State",
    "Task",
    "TimedOut",
    "Unique",
    "UnreadableArguments",
    "UnsupportedConnection",
    "UnsupportedDatabase",
    "When",
    "Worker",
    "WorkerOptions",
    "chain",
    "commit_effect_idempotent",
    "commit_effect_idempotent_async",
    "group",
]

# Where each name lives. They are imported when first used: SQLAlchemy and psycopg take a second,
# which `jobq --help` and a shell's completion need not pay.
_HOMES = {
    "JobQueue": "jobq.client",
    "commit_effect_idempotent": "jobq.commit",
    "commit_effect_idempotent_async": "jobq.commit",
    "AlreadyCommitted": "jobq.errors",
    "ArgumentsTooLarge": "jobq.errors",
    "DatabaseUnavailable": "jobq.errors",
    "EffectOutcomeUnknown": "jobq.errors",
    "EffectRolledBack": "jobq.errors",
    "InvalidApp": "jobq.errors",
    "InvalidArguments": "jobq.errors",
    "InvalidDatabaseURL": "jobq.errors",
    "InvalidOption": "jobq.errors",
    "InvalidResult": "jobq.errors",
    "InvalidStep": "jobq.errors",
    "InvalidHeaders": "jobq.errors",
    "InvalidTask": "jobq.errors",
    "JobFailed": "jobq.errors",
    "JobExists": "jobq.errors",
    "JobInNoPlace": "jobq.errors",
    "JobNotFound": "jobq.errors",
    "JobqError": "jobq.errors",
    "KeyMissing": "jobq.errors",
    "LeaseLost": "jobq.errors",
    "MissingExtra": "jobq.errors",
    "NotMigrated": "jobq.errors",
    "NotPermitted": "jobq.errors",
    "ProcessDied": "jobq.errors",
    "Refusal": "jobq.errors",
    "ScheduleNotFound": "jobq.errors",
    "SchemaTooNew": "jobq.errors",
    "TimedOut": "jobq.errors",
    "UnreadableArguments": "jobq.errors",
    "UnsupportedConnection": "jobq.errors",
    "UnsupportedDatabase": "jobq.errors",
    "Bury": "jobq.job",
    "Job": "jobq.job",
    "Snooze": "jobq.job",
    "Breaker": "jobq.protocol.breaker",
    "When": "jobq.protocol.flow",
    "chain": "jobq.protocol.flow",
    "group": "jobq.protocol.flow",
    "Limit": "jobq.protocol.limits",
    "AttemptOutcome": "jobq.middleware",
    "AttemptResult": "jobq.middleware",
    "EffectEvent": "jobq.middleware",
    "Middleware": "jobq.middleware",
    "AmbiguousJob": "jobq.protocol.outside",
    "OutsideEffects": "jobq.protocol.outside",
    "RecordedStep": "jobq.protocol.outside",
    "Resolution": "jobq.protocol.outside",
    "Retention": "jobq.protocol.retention",
    "Budget": "jobq.protocol.retry",
    "On": "jobq.protocol.retry",
    "Retry": "jobq.protocol.retry",
    "Missed": "jobq.protocol.schedule",
    "Schedule": "jobq.protocol.schedule",
    "AttemptEnd": "jobq.protocol.states",
    "Outcome": "jobq.protocol.states",
    "State": "jobq.protocol.states",
    "Unique": "jobq.protocol.unique",
    "DeadJob": "jobq.protocol.values",
    "EndedAttempt": "jobq.protocol.values",
    "JobRequest": "jobq.protocol.values",
    "JobStatus": "jobq.protocol.values",
    "Progress": "jobq.protocol.values",
    "QueueStatus": "jobq.store.pauses",
    "ScheduleStatus": "jobq.store.schedules",
    "JobHandle": "jobq.task",
    "Task": "jobq.task",
    "Worker": "jobq.worker",
    "WorkerOptions": "jobq.worker",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'jobq' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value

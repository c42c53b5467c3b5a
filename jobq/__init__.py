"""jobq: a job queue on PostgreSQL and SQLite whose effects happen exactly once.

app = JobQueue("postgresql://localhost/shop")

@app.task(queue="billing")
def charge(db: Session, order_id: int, cents: int) -> None:
    db.execute(insert(ledger).values(order_id=order_id, cents=cents))

charge.enqueue(order_id=7, cents=999)
"""

from jobq.client import JobQueue
from jobq.commit import commit_effect_idempotent, commit_effect_idempotent_async
from jobq.errors import (
    AlreadyCommitted,
    ArgumentsTooLarge,
    DatabaseUnavailable,
    EffectOutcomeUnknown,
    EffectRolledBack,
    InvalidApp,
    InvalidArguments,
    InvalidDatabaseURL,
    InvalidOption,
    InvalidTask,
    JobNotFound,
    JobqError,
    LeaseLost,
    MissingExtra,
    NotMigrated,
    Refusal,
    SchemaTooNew,
    UnreadableArguments,
    UnsupportedConnection,
    UnsupportedDatabase,
)
from jobq.job import Job
from jobq.protocol.retry import Retry
from jobq.protocol.states import AttemptEnd, Outcome, State
from jobq.protocol.values import EndedAttempt, JobRequest, JobStatus
from jobq.task import JobHandle, Task
from jobq.worker import Worker, WorkerOptions

__version__ = "0.1.0"

__all__ = [
    "AlreadyCommitted",
    "ArgumentsTooLarge",
    "AttemptEnd",
    "DatabaseUnavailable",
    "EffectOutcomeUnknown",
    "EffectRolledBack",
    "EndedAttempt",
    "InvalidApp",
    "InvalidArguments",
    "InvalidDatabaseURL",
    "InvalidOption",
    "InvalidTask",
    "Job",
    "JobHandle",
    "JobNotFound",
    "JobQueue",
    "JobRequest",
    "JobStatus",
    "JobqError",
    "LeaseLost",
    "MissingExtra",
    "NotMigrated",
    "Outcome",
    "Refusal",
    "Retry",
    "SchemaTooNew",
    "State",
    "Task",
    "UnreadableArguments",
    "UnsupportedConnection",
    "UnsupportedDatabase",
    "Worker",
    "WorkerOptions",
    "commit_effect_idempotent",
    "commit_effect_idempotent_async",
]

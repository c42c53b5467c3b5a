"""Every error jobq raises, in two trees.

`JobqError` is for mistakes and faults: each class says when it is raised and what to do.
`Refusal` is for an attempt that may not commit. It is not an `Exception`, for the reason
`asyncio.CancelledError` is not: a handler's `except Exception` must not swallow it and go on
as if its effect were applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobq.protocol.states import Outcome

if TYPE_CHECKING:
    from jobq.protocol.values import AttemptError


class JobqError(Exception):
    """The root of jobq's errors."""


class InvalidDatabaseURL(JobqError):
    """The database URL is missing, malformed or names a database jobq does not speak to.

    Correct the URL given to `JobQueue`, to the command, or in `JOBQ_DATABASE_URL`.
    """


class UnsupportedDatabase(JobqError):
    """The server or library is older than jobq needs (PostgreSQL 14, SQLite 3.35). Upgrade it."""


class UnsupportedConnection(JobqError):
    """`enqueue_in` or a handler named a connection type that jobq cannot run statements on.

    Pass a SQLAlchemy session or connection (sync or async), or a driver connection.
    """


class MissingExtra(JobqError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs an optional dependency: install it with pip install 'jobq[{extra}]'"
        )


class NotMigrated(JobqError):
    """The database has no jobq tables, or older ones than this version needs.

    Run `jobq upgrade` (or `alembic upgrade head`) against it.
    """


class ScheduleNotFound(JobqError):
    """There is no schedule of that name in this database: see `app.schedules.list()`."""


class SchemaTooNew(JobqError):
    """The database was migrated by a newer jobq than this one. Upgrade the jobq package."""


class DatabaseUnavailable(JobqError):
    """The database could not be reached, or stayed locked, for as long as jobq may wait.

    Try again. Nothing was changed, unless the connection was lost at the very COMMIT: then only
    the database knows whether it took place.
    """


class NotPermitted(JobqError):
    """The database role may not do what was asked of it. Nothing was changed.

    Connect as a member of the role that may, or run `jobq roles grant` again after an upgrade: see
    docs/security.md.
    """


class InvalidTask(JobqError):
    """A handler cannot be registered: its name is taken or its signature cannot be served."""


class InvalidApp(JobqError):
    """`package.module:attribute` does not lead to a `JobQueue`."""


class InvalidOption(JobqError):
    """An option of a job or a worker is out of its range, or two options contradict."""


class InvalidArguments(JobqError):
    """A job's arguments do not fit its handler, or JSON cannot hold them. Nothing was enqueued."""


class ArgumentsTooLarge(InvalidArguments):
    """A job's arguments are larger than the queue's limit.

    Store the payload in a table or object store and enqueue its key, or raise
    `JobQueue(max_args_bytes=...)`.
    """


class InvalidHeaders(JobqError):
    """Middleware put something into a job's headers that cannot be stored. Nothing was enqueued."""


class UnreadableArguments(JobqError):
    """A stored job's arguments do not fit the handler registered for its task today.

    Raised inside the attempt, which fails and is retried like any other: typically a deploy
    changed the handler's signature under jobs that were already enqueued.
    """


class KeyMissing(JobqError):
    """Stored arguments, a result or a step are encrypted, and no key of this app opens them.

    In a worker the attempt fails before its handler is called, and is retried: give it the key. Or
    the stored text was changed, or put in the place of another.
    """


class InvalidStep(JobqError):
    """`job.step` was called where or as it cannot be: its name is taken, a boundary is open, or
    its result cannot be recorded as JSON, or no longer be read.

    Raised inside the attempt, which fails like any other unless the handler catches it.
    """


class InvalidResult(JobqError):
    """What a handler returned cannot be kept as JSON, or what was kept can no longer be read.

    Raised inside the attempt it fails it, before its effect is committed.
    """


class JobFailed(JobqError):
    """The job whose result was asked for has none: it is dead or cancelled.

    `job_id`, `outcome` and `error` (what ended its last attempt) say more.
    """

    def __init__(self, job_id: int, outcome: Outcome, error: AttemptError | None) -> None:
        self.job_id = job_id
        self.outcome = outcome
        self.error = error
        cause = f": {error.type}: {error.message}" if error is not None else ""
        super().__init__(f"job {job_id} is {outcome.value}, and has no result{cause}")


class TimedOut(JobqError):
    """An attempt took longer than its task's `timeout_s`. It failed, and committed nothing."""


class ProcessDied(JobqError):
    """The process that ran a handler was killed or crashed. The attempt failed, as by any error."""


class JobExists(JobqError):
    """A unique job was enqueued with `on_conflict="raise"`, and there is one of its kind.

    `job_id` names it. Nothing was enqueued; in a transaction of yours, that is yours to end.
    """

    def __init__(self, job_id: int, key: str) -> None:
        self.job_id = job_id
        super().__init__(
            f"job {job_id} is there already, and is to be the only one for {key}: wait until it "
            "has ended, or use another on_conflict"
        )


class JobNotFound(JobqError):
    """No job has this id: it was never enqueued, its transaction rolled back, or it was pruned."""


class JobInNoPlace(JobqError):
    """The job exists, and no table says where it is: invariant I5 is violated.

    Something else than jobq changed its tables: see `jobq doctor` and docs/doctor.md.
    """

    def __init__(self, job_id: int) -> None:
        self.job_id = job_id
        super().__init__(
            f"job {job_id} is in no place: I5 is violated, as by rows deleted by hand: run jobq "
            "doctor, and see docs/doctor.md"
        )


class EffectRolledBack(JobqError):
    """The effect transaction ended before its boundary: nothing of the effect was committed.

    The handler swallowed a database error (PostgreSQL then answers COMMIT with ROLLBACK, and
    drivers say nothing), or it ended the transaction itself. Let database errors propagate, or
    confine them to a savepoint (`session.begin_nested()`); leave COMMIT to jobq.
    """


class EffectOutcomeUnknown(JobqError):
    """The connection was lost at COMMIT and the database could not be asked what became of it, or
    was asked so late that the job had been pruned.

    The lease is left to expire; the reconciler settles the job by its commit record.
    """


class Refusal(BaseException):
    """This attempt may not commit. Not an `Exception`: see the module's docstring."""

    def __init__(self, message: str, *, job_id: int, token: int) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.token = token


class LeaseLost(Refusal):
    """The attempt's lease was recovered: another attempt owns the job, or will.

    Nothing of this attempt's effect is applied. The worker drops it; a handler has nothing to
    do but end.
    """

    def __init__(self, job_id: int, token: int) -> None:
        super().__init__(
            f"job {job_id}: the lease with token {token} is gone; its job was recovered after the "
            "lease expired, and this attempt changes nothing",
            job_id=job_id,
            token=token,
        )


class AlreadyCommitted(Refusal):
    """The job already has its one fate: this attempt is a duplicate and no-ops.

    `outcome` says which fate: committed, dead or cancelled.
    """

    def __init__(self, job_id: int, token: int, outcome: Outcome) -> None:
        super().__init__(
            f"job {job_id}: its fate is already recorded as {outcome.value}; the attempt with "
            f"token {token} changes nothing",
            job_id=job_id,
            token=token,
        )
        self.outcome = outcome

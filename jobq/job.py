"""The job, as its handler sees it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from types import TracebackType
from typing import Any, Generic, TypeVar, cast, overload
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from jobq.commit import commit_effect_idempotent, commit_effect_idempotent_async
from jobq.database.base import Database
from jobq.encryption import PLAIN, Encryption
from jobq.errors import InvalidTask, LeaseLost, Refusal, TimedOut
from jobq.middleware import EffectEvent, read_headers
from jobq.outside import Outside
from jobq.protocol.progress import Told, check_progress
from jobq.protocol.results import Results
from jobq.protocol.retry import seconds_of
from jobq.protocol.values import ClaimedJob, Lease

C = TypeVar("C")
R = TypeVar("R")
S = TypeVar("S")
A = TypeVar("A")


class Fate:
    """What the worker and the boundary know of an attempt, whatever its handler makes of it."""

    __slots__ = (
        "_ends_s",
        "_timeout_s",
        "is_boundary_open",
        "is_committed",
        "is_lease_lost",
        "on_effect",
        "refusal",
        "result",
    )

    def __init__(self) -> None:
        self.is_boundary_open = False
        self.is_committed = False
        self.refusal: Refusal | None = None
        self.is_lease_lost = False
        self.result: str | None = None
        """What is to be kept in the job's record, as JSON."""
        self.on_effect: Callable[[EffectEvent], None] | None = None
        self._timeout_s: float | None = None
        self._ends_s: float | None = None

    def tell(self, event: EffectEvent) -> None:
        """Have those who want to know learn of it."""
        if self.on_effect is not None:
            self.on_effect(event)

    def committed(self) -> None:
        self.is_committed = True
        self.tell(EffectEvent.COMMITTED)

    def refused(self, refusal: Refusal) -> None:
        """The first time counts."""
        if self.refusal is None:
            self.refusal = refusal
            self.tell(EffectEvent.REFUSED)

    def begin(self, timeout_s: float | None) -> None:
        """The handler has so many seconds from now."""
        if timeout_s is not None:
            self._timeout_s = timeout_s
            self._ends_s = time.monotonic() + timeout_s

    @property
    def is_over_time(self) -> bool:
        return self._ends_s is not None and time.monotonic() >= self._ends_s

    def timed_out(self) -> TimedOut:
        return TimedOut(
            f"the handler was not done after {self._timeout_s:g} s; nothing was committed"
        )

    def at_commit(self) -> str | None:
        """Return the result that is to be kept. Raises TimedOut: then nothing is committed."""
        if self.is_over_time:
            raise self.timed_out()
        return self.result


class Job:
    """One attempt at one job: what is known of it, and the way to its commit boundary.

    A handler whose leading parameter is annotated `Job` receives it.
    """

    def __init__(
        self,
        claimed: ClaimedJob,
        database: Database,
        fate: Fate,
        results: Results | None = None,
        report_progress: Callable[[Lease, Told], None] | None = None,
        encryption: Encryption = PLAIN,
    ) -> None:
        self._encryption = encryption
        self._claimed = claimed
        self._database = database
        self._fate = fate
        self._results = results
        self._report_progress = report_progress

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """What middleware put there when the job was enqueued."""
        return read_headers(self._claimed.headers)

    @property
    def due_at(self) -> datetime:
        """When this attempt was due."""
        return self._claimed.due_at

    @property
    def waited_s(self) -> float:
        """Seconds from when this attempt was due until a worker claimed it, by the database's
        clock."""
        return (self._claimed.acquired_at - self._claimed.due_at).total_seconds()

    @property
    def is_committed(self) -> bool:
        """Whether this attempt's effect and its record are committed."""
        return self._fate.is_committed

    @property
    def id(self) -> int:
        """The number of the job."""
        return self._claimed.lease.job_id

    @property
    def queue(self) -> str:
        """The line it waited in."""
        return self._claimed.queue

    @property
    def task(self) -> str:
        """The name of its task."""
        return self._claimed.task

    @property
    def priority(self) -> int:
        """Smaller runs first."""
        return self._claimed.priority

    @property
    def attempt(self) -> int:
        """This attempt's number, from 1."""
        return self._claimed.attempt

    @property
    def max_attempts(self) -> int:
        """How many attempts it has, this one and those before included."""
        return self._claimed.max_attempts

    @property
    def created_at(self) -> datetime:
        """When it was enqueued."""
        return self._claimed.created_at

    @property
    def idempotency_key(self) -> UUID:
        """The same for every attempt at this job, random, never reused: for services outside
        this database that take such a key."""
        return self._claimed.idempotency_key

    @property
    def fencing_token(self) -> int:
        """Larger for every later attempt at this job: for storage outside this database that
        can refuse a smaller token than it has seen."""
        return self._claimed.lease.token

    @property
    def lease_lost(self) -> bool:
        """Whether this attempt can change nothing any more: stop when it turns true.

        An `async def` handler is cancelled besides; one in a thread can only look here.
        """
        return self._fate.is_lease_lost

    @property
    def must_stop(self) -> bool:
        """Whether this attempt can change nothing any more, for whichever reason: its lease is
        lost, the job was cancelled, or its time (`timeout_s`) is over."""
        return self._fate.is_lease_lost or self._fate.is_over_time

    @overload
    def commit(self) -> CommitBoundary[Session, AsyncSession]: ...
    @overload
    def commit(self, kind: type[C]) -> CommitBoundary[C, C]: ...
    def commit(self, kind: type[Any] | None = None) -> CommitBoundary[Any, Any]:
        """Open the commit boundary: the block's effect and the job's commit record are one
        transaction.

            with job.commit() as db: ...                    # a SQLAlchemy Session
            async with job.commit() as db: ...              # an AsyncSession
            with job.commit(psycopg.Connection) as db: ...  # any kind a handler may ask for

        For a handler that computes for long before it writes: until here, nothing is held. Raises
        LeaseLost or AlreadyCommitted when this attempt may not commit. They are no `Exception`:
        let them pass. Raises InvalidTask inside a boundary that is open already.
        """
        return CommitBoundary(self._database, self._claimed.lease, self._fate, kind)

    def set_result(self, result: object) -> None:
        """Have this kept as the job's result, in its commit record.

        For handlers that open `job.commit()` themselves: what they return comes after the commit.
        Called before or inside the block, it is part of it. Elsewhere the handler's return value
        does the same. Raises InvalidResult; InvalidTask after the commit, or when the handler's
        return annotation does not say that it has a result.
        """
        if self._results is None:
            raise InvalidTask(
                f"task {self.task!r} keeps no results: annotate what its handler returns, as in "
                "`-> Receipt`"
            )
        if self._fate.is_committed:
            raise InvalidTask(
                f"job {self.id} is committed, and its record with it: call set_result inside "
                "`with job.commit()`"
            )
        self._fate.result = self._results.encode(result)

    def progress(self, fraction: float | None = None, note: str | None = None) -> None:
        """Say how far the job has come: a fraction from 0 to 1, a note, or both. Does not block.

        The worker writes what was said last, once a second at most, outside of the effect's
        transaction: so it is seen while the handler runs, and stays when that rolls back. Raises
        InvalidOption.
        """
        told = Told(fraction, note)
        check_progress(told)
        if self._report_progress is not None:
            self._report_progress(self._claimed.lease, told)

    # -- effects outside the database: see docs/outside-effects.md

    @cached_property
    def _outside(self) -> Outside:
        return Outside(self._claimed, self._database, self._fate, self._encryption)

    def step(self, name: str, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        """Run `function(*args, **kwargs)` once for the job, and give its result. Blocks.

            receipt = job.step("charge", payments.charge, order_id, cents)

        The result is recorded under `name` as JSON, at once, in a transaction of its own. A later
        attempt is given what is recorded and does not run the function. It runs again only when an
        attempt ended after the function began and before its result was recorded; so give the
        service the step's key: a function with a parameter `idempotency_key` receives it, a UUID
        that is the same for every attempt. What comes back is what JSON made of the result, read
        by the function's return annotation.

        Raises InvalidStep when the name was used in this attempt, inside an open commit boundary
        or after it, or when JSON cannot hold the result (of at most 256 KiB). Raises LeaseLost or
        AlreadyCommitted, which are no `Exception`, when this attempt may change nothing any more;
        whatever the function raises, with nothing recorded; DatabaseUnavailable when the database
        stays away.
        """
        result: R = self._outside.step(name, function, args, kwargs)
        return result

    @overload
    async def astep(
        self, name: str, function: Callable[..., Awaitable[R]], /, *args: Any, **kwargs: Any
    ) -> R: ...
    @overload
    async def astep(
        self, name: str, function: Callable[..., R], /, *args: Any, **kwargs: Any
    ) -> R: ...
    async def astep(
        self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """`step` for `async def` handlers: what the function returns is awaited if it can be."""
        return await self._outside.step_async(name, function, args, kwargs)

    def step_key(self, name: str) -> UUID:
        """The idempotency key of the step of this name, derived from the job's. Raises
        InvalidStep."""
        return self._outside.key(name)


class Snooze(Exception):
    """Raise it in a handler to be run again later: `raise Snooze(timedelta(minutes=5))`.

    No attempt is spent. What the handler did to the database is rolled back; what it committed in a
    boundary of its own, if any, is done, and so is the job.
    """

    def __init__(self, delay: timedelta | float) -> None:
        """`delay`: a timedelta or seconds, from the worker's report by the database's clock.

        Raises InvalidOption.
        """
        self.delay_s = seconds_of(delay)
        super().__init__(f"snoozed for {self.delay_s:g} s")


class Bury(Exception):
    """Raise it in a handler to have its job dead at once: `raise Bury("the customer is gone")`.

    No further attempt is made; the history shows the reason. What the handler did to the database
    is rolled back; what it committed in a boundary of its own, if any, is done, and so is the job.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class CommitBoundary(Generic[S, A]):
    """`with` gives a blocking session or connection, `async with` an async one."""

    def __init__(
        self, database: Database, lease: Lease, fate: Fate, kind: type[Any] | None
    ) -> None:
        self._database = database
        self._lease = lease
        self._fate = fate
        self._kind = kind
        self._blocking: AbstractContextManager[Any] | None = None
        self._async: AbstractAsyncContextManager[Any] | None = None

    def __enter__(self) -> S:
        with self._opening():
            self._blocking = commit_effect_idempotent(
                self._database,
                self._lease,
                self._kind or Session,
                result=self._fate.at_commit,
            )
            handle = cast(S, self._blocking.__enter__())
        self._fate.tell(EffectEvent.BEGUN)
        return handle

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._blocking is not None
        try:
            self._blocking.__exit__(kind, error, traceback)
        finally:
            self._fate.is_boundary_open = False
        if error is None:
            self._fate.committed()

    async def __aenter__(self) -> A:
        with self._opening():
            self._async = commit_effect_idempotent_async(
                self._database,
                self._lease,
                self._kind or AsyncSession,
                result=self._fate.at_commit,
            )
            handle = cast(A, await self._async.__aenter__())
        self._fate.tell(EffectEvent.BEGUN)
        return handle

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._async is not None
        try:
            await self._async.__aexit__(kind, error, traceback)
        finally:
            self._fate.is_boundary_open = False
        if error is None:
            self._fate.committed()

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Whatever the handler does with the refusal, the worker learns of it."""
        if self._fate.is_boundary_open:
            # Its record would wait for the open boundary's, which waits for the handler: for ever.
            raise InvalidTask(
                f"job {self._lease.job_id}: its commit boundary is open already: use the session "
                "or connection that the handler has"
            )
        self._fate.is_boundary_open = True
        try:
            if self._fate.is_lease_lost:  # by the heartbeat: no need to ask the database
                raise LeaseLost(self._lease.job_id, self._lease.token)
            yield
        except BaseException as error:
            self._fate.is_boundary_open = False
            if isinstance(error, Refusal):
                self._fate.refused(error)
            raise

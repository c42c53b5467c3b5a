"""A task: a registered function, and the ways to enqueue jobs for it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, overload

import psycopg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from jobq.encryption import arguments_of, result_of
from jobq.errors import InvalidOption, JobFailed
from jobq.handler import Handler
from jobq.protocol.breaker import Breaker
from jobq.protocol.flow import When, when_of
from jobq.protocol.limits import Limit, line_of
from jobq.protocol.outside import OutsideEffects
from jobq.protocol.results import Results, plain_result
from jobq.protocol.retention import Retention
from jobq.protocol.retry import Retry, check_delay, deadline_of
from jobq.protocol.states import Outcome
from jobq.protocol.unique import Unique
from jobq.protocol.values import Ended, JobRequest, JobStatus, Progress, UniqueRequest
from jobq.protocol.versions import Upgrade, read_stored, stored_as, upgraded

if TYPE_CHECKING:
    from jobq.client import JobQueue

P = ParamSpec("P")
R = TypeVar("R")

BlockingConnection = (
    Session | scoped_session[Any] | Connection | psycopg.Connection[Any] | sqlite3.Connection
)
AsynchronousConnection = (
    AsyncSession | async_scoped_session[Any] | AsyncConnection | psycopg.AsyncConnection[Any]
)

SMALLEST_PRIORITY, LARGEST_PRIORITY = -32_768, 32_767
LARGEST_MAX_ATTEMPTS = 32_767
MAX_NAME_CHARACTERS = 200
"""Queues are part of a key, and PostgreSQL's keys hold less than 2,700 bytes."""


def check_name(what: str, name: str) -> None:
    """Raise InvalidOption unless `name` is text that both databases can store in a key."""
    if not (name.isprintable() and 0 < len(name) <= MAX_NAME_CHARACTERS):
        raise InvalidOption(
            f"{what} {name[:MAX_NAME_CHARACTERS]!r}: a name is 1 to {MAX_NAME_CHARACTERS} "
            "printable characters"
        )


@dataclass(frozen=True, slots=True)
class JobHandle:
    """An enqueued job. In a transaction of yours it exists when that has committed."""

    id: int
    """Its number, unique in its database."""
    app: JobQueue
    is_new: bool = True
    """False for a unique job that was there already."""

    def status(self) -> JobStatus:
        """Return where the job is. Raises JobNotFound (its transaction rolled back, say)."""
        return self.app.status(self.id)

    def cancel(self) -> bool:
        """Cancel the job; return whether its fate was still open. Blocks. Raises JobNotFound."""
        return self.app.cancel(self.id)

    def wait(self, timeout_s: float | None = None) -> JobStatus:
        """Return the job's status once it is committed, dead or cancelled. Blocks.

        `timeout_s`: how long to wait; None for as long as it takes. All who wait in a process ask
        the database in one query, twice a second at most once it takes longer. Raises TimeoutError;
        JobNotFound, at once for a job whose transaction is not committed yet; JobInNoPlace.
        """
        self._ended(timeout_s)
        return self.status()

    async def await_(self, timeout_s: float | None = None) -> JobStatus:
        """`wait` for asyncio."""
        await self._ended_async(timeout_s)
        return await asyncio.to_thread(self.status)

    def result(self, timeout_s: float | None = None) -> Any:
        """Return what the job's handler returned, once it is committed. Blocks.

        None when nothing was kept. Read by the handler's return annotation, or as plain JSON when
        this app does not have the task. Raises as `wait`; JobFailed when the job is dead or
        cancelled; InvalidResult; KeyMissing.
        """
        return self._result(self._ended(timeout_s))

    async def aresult(self, timeout_s: float | None = None) -> Any:
        """`result` for asyncio."""
        return self._result(await self._ended_async(timeout_s))

    def progress(self) -> Progress | None:
        """Return what the job's handler said last of how far it has come. Blocks."""
        return self.app.progress(self.id)

    def _ended(self, timeout_s: float | None) -> Ended:
        future = self.app.watcher.watch(self.id)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise self._not_yet(timeout_s) from None

    async def _ended_async(self, timeout_s: float | None) -> Ended:
        future = asyncio.wrap_future(self.app.watcher.watch(self.id))
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise self._not_yet(timeout_s) from None

    def _not_yet(self, timeout_s: float | None) -> TimeoutError:
        return TimeoutError(f"job {self.id} has not ended within {timeout_s} s; it goes on")

    def _result(self, ended: Ended) -> Any:
        if ended.outcome is not Outcome.COMMITTED:
            raise JobFailed(self.id, ended.outcome, ended.error)
        if ended.result is None:
            return None
        task = self.app.task_of(ended.task)
        if task is None or task.results is None:
            what = result_of(read_stored(ended.task)[0])
            return plain_result(self.app.encryption.unseal(what, ended.result))
        return task.results.decode(ended.result)


@dataclass(frozen=True, slots=True)
class Options:
    """What a job of a task gets unless told otherwise."""

    queue: str = "default"
    priority: int = 0
    max_attempts: int = 5
    run_at: datetime | None = None
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        check_name("queue", self.queue)
        if not SMALLEST_PRIORITY <= self.priority <= LARGEST_PRIORITY:
            raise InvalidOption(
                f"priority {self.priority}: use {SMALLEST_PRIORITY} to {LARGEST_PRIORITY}; smaller "
                "runs first"
            )
        if not 1 <= self.max_attempts <= LARGEST_MAX_ATTEMPTS:
            raise InvalidOption(
                f"max_attempts {self.max_attempts}: use 1 to {LARGEST_MAX_ATTEMPTS}"
            )
        if self.run_at is not None and self.run_at.utcoffset() is None:
            raise InvalidOption(
                f"run_at {self.run_at} has no time zone: pass an aware datetime, as in "
                "datetime.now(UTC) + timedelta(hours=1), or use delay"
            )
        if self.run_at is not None and self.delay_s:
            raise InvalidOption("run_at and delay both say when: pass one of them")
        check_delay(self.delay_s)


class Task(Generic[P, R]):
    """A registered function. Call it to run it here and now; enqueue it to have a worker do so.

    The parameters that jobq fills (a session, the job) are not passed when enqueueing.
    """

    def __init__(
        self,
        app: JobQueue,
        name: str,
        handler: Handler,
        options: Options,
        *,
        retry: Retry,
        keep: Retention,
        limits: Sequence[Limit] = (),
        unique: Unique | None = None,
        outside_effects: OutsideEffects = OutsideEffects.AT_LEAST_ONCE,
        results: Results | None = None,
        batch_size: int | None = None,
        is_in_process: bool = False,
        memory_mb: int | None = None,
        timeout_s: float | None = None,
        breaker: Breaker | None = None,
        version: int = 1,
        upgrade: Upgrade | None = None,
    ) -> None:
        self.app = app
        self.name = name
        self.handler = handler
        self.options = options
        self.retry = retry
        self.keep = keep
        self.limits = tuple(limits)
        self.unique = unique
        self.outside_effects = outside_effects
        self.results = results
        self.batch_size = batch_size
        self.is_in_process = is_in_process
        self.memory_mb = memory_mb
        self.timeout_s = timeout_s
        self.breaker = breaker
        self.version = version
        self.stored_name = stored_as(name, version)
        """Under which its new jobs are stored."""
        self.upgrade = upgrade
        self._what = arguments_of(name)
        self.after: tuple[int, ...] = ()
        self.when = When.DONE
        self.deadline: datetime | float | None = None
        self.__doc__ = handler.function.__doc__

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    @property
    def stored_names(self) -> list[str]:
        """The names under which its jobs are stored, by version; the last is that of new jobs."""
        return [stored_as(self.name, version) for version in range(1, self.version + 1)]

    def read(self, stored: str, args: str) -> dict[str, Any]:
        """Return the keyword arguments of a job stored under this name.

        Raises UnreadableArguments when they do not fit the handler as it is now; KeyMissing when
        they are encrypted, and not to be read here.
        """
        is_current = stored == self.stored_name
        args = self._unsealed(args) if is_current else self.current(stored, args)
        return self.handler.arguments.decode(args)

    def current(self, stored: str, args: str) -> str:
        """Return a stored job's arguments as this version of the task has them, as JSON.

        Raises KeyMissing or UnreadableArguments.
        """
        args = self._unsealed(args)
        _, version = read_stored(stored)
        if version >= self.version or self.upgrade is None:
            return args
        return upgraded(self.name, version, self.version, args, self.upgrade)

    def _unsealed(self, args: str) -> str:
        return self.app.encryption.unseal(self._what, args)

    def __call__(self, *args: object, **kwargs: object) -> R:
        """Call the function itself, with everything it takes: for tests and plain reuse."""
        result: R = self.handler.function(*args, **kwargs)
        return result

    def using(
        self,
        *,
        queue: str | None = None,
        priority: int | None = None,
        max_attempts: int | None = None,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        unique: Unique | None = None,
        after: JobHandle | int | Iterable[JobHandle | int] = (),
        when: When | Literal["done", "ended", "failed"] = When.DONE,
        deadline: datetime | timedelta | float | None = None,
    ) -> Task[P, R]:
        """Return the same task with other options: `charge.using(delay=60).enqueue(order_id=7)`.

        - `queue`, `max_attempts`: instead of the task's own.
        - `priority`: smaller runs first.
        - `run_at`: when it is due, an aware datetime.
        - `delay`: seconds, or a timedelta, from now by the database's clock.
        - `unique`: see `Unique`.
        - `after`: jobs that it waits for; `delay` counts from their end.
        - `when`: how those have to end, see `When`.
        - `deadline`: when it is not to begin any more, an aware datetime or seconds from its
          enqueueing; it is dead then.

        Raises InvalidOption.
        """
        changes: dict[str, Any] = {
            "queue": queue,
            "priority": priority,
            "max_attempts": max_attempts,
            "run_at": run_at,
            "delay_s": delay.total_seconds() if isinstance(delay, timedelta) else delay,
        }
        options = replace(
            self.options, **{name: value for name, value in changes.items() if value is not None}
        )
        task = copy(self)
        task.options = options
        needed = [after] if isinstance(after, JobHandle | int) else after
        task.after = tuple(one.id if isinstance(one, JobHandle) else one for one in needed)
        task.when = when_of(when)
        if deadline is not None:
            task.deadline = deadline_of(deadline)
        if unique is not None:
            task.unique = unique
            self.handler.arguments.check_names("unique", unique.by or ())
        return task

    def request(self, *args: P.args, **kwargs: P.kwargs) -> JobRequest:
        """Return a job to be, for `JobQueue.enqueue_many`. Raises InvalidArguments."""
        encoded = self.handler.arguments.encode(args, kwargs, max_bytes=self.app.max_args_bytes)
        return JobRequest(
            task=self.stored_name,
            args=self.app.encryption.seal(self._what, encoded),
            queue=self.options.queue,
            priority=self.options.priority,
            max_attempts=self.options.max_attempts,
            run_at=self.options.run_at,
            delay_s=self.options.delay_s,
            line=self._line(encoded) if self.limits else None,
            unique=self._unique(encoded) if self.unique else None,
            after=self.after,
            when=self.when.value,
            deadline=self.deadline,
            args_digest=self.app.encryption.fingerprint(f"{self._what} {encoded}"),
        )

    def _line(self, encoded: str) -> str | None:
        arguments = self.handler.arguments.plain(encoded)
        return line_of(self.options.queue, self.limits, arguments, self.app.encryption.digest)

    def _unique(self, encoded: str) -> UniqueRequest | None:
        arguments = self.handler.arguments.plain(encoded)
        digest = self.app.encryption.digest
        return self.unique.request(self.name, arguments, digest) if self.unique else None

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """Enqueue a job in a transaction of its own. Blocks.

        Raises InvalidArguments or ArgumentsTooLarge before anything is written; NotMigrated,
        DatabaseUnavailable; JobExists for a unique job that is to raise it.
        """
        return self.app.enqueue_many([self.request(*args, **kwargs)])[0]

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """`enqueue` for asyncio."""
        return (await self.app.aenqueue_many([self.request(*args, **kwargs)]))[0]

    @overload
    def enqueue_in(
        self, connection: BlockingConnection, /, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle: ...
    @overload
    def enqueue_in(
        self, connection: AsynchronousConnection, /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, JobHandle]: ...
    def enqueue_in(
        self,
        connection: BlockingConnection | AsynchronousConnection,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> JobHandle | Coroutine[Any, Any, JobHandle]:
        """Enqueue a job in the caller's transaction: it exists if and only if that commits.

        `connection` is a SQLAlchemy session or connection, or a driver's connection, to the
        queue's database. With an async one the result is to be awaited. Raises
        UnsupportedConnection for anything else, InvalidArguments before anything is written.
        """
        request = self.request(*args, **kwargs)
        if isinstance(
            connection,
            AsyncSession | async_scoped_session | AsyncConnection | psycopg.AsyncConnection,
        ):
            return self._aenqueue_in(connection, request)
        return self.app.enqueue_many_in(connection, [request])[0]

    async def _aenqueue_in(
        self, connection: AsynchronousConnection, request: JobRequest
    ) -> JobHandle:
        return (await self.app.enqueue_many_in(connection, [request]))[0]

"""`JobQueue`: where tasks are registered, jobs enqueued and workers started."""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, Unpack, overload

import psycopg
from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from jobq.ambiguous import AmbiguousJobs
from jobq.database.base import Database
from jobq.database.caller import ASYNC_CONNECTIONS, run_in, run_in_async
from jobq.database.open import open_database
from jobq.database.url import Backend, backend_of, parse_url
from jobq.dead import DeadJobs
from jobq.encryption import Encryption, SealedResults, encryption_of
from jobq.errors import InvalidOption, InvalidTask, JobNotFound, NotPermitted
from jobq.handler import check_process, inspect_handler
from jobq.job import Job
from jobq.jobs import Audit, Jobs, Workers
from jobq.middleware import Middleware, with_headers
from jobq.models import DEFAULT_SCHEMA
from jobq.protocol.breaker import Breaker
from jobq.protocol.limits import Limit
from jobq.protocol.outside import (
    OutsideEffectsName,
    RecordedStep,
    check_boundary,
    check_rules,
    policy_of,
)
from jobq.protocol.retention import Retention
from jobq.protocol.retry import Retry
from jobq.protocol.schedule import Schedule
from jobq.protocol.unique import Unique
from jobq.protocol.values import EndedAttempt, JobRequest, JobStatus, Progress
from jobq.protocol.versions import Upgrade, check_version, read_stored
from jobq.queues import Queues
from jobq.schedules import MissedName, Schedules, missed_of
from jobq.store.audit import audited
from jobq.store.base import Store
from jobq.store.deadlines import set_deadlines
from jobq.store.flow import enqueue_flow
from jobq.store.progress import progress_of
from jobq.store.step import Step
from jobq.store.steps import steps_of
from jobq.store.unique import enqueue_unique
from jobq.task import (
    AsynchronousConnection,
    BlockingConnection,
    JobHandle,
    Options,
    Task,
    check_name,
)
from jobq.waiting import EndWatcher
from jobq.worker import RunningWorker, Worker, WorkerOptions, WorkerSettings

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
# What jobq fills in: the leading parameters of a handler, absent when its job is enqueued.
D = TypeVar(
    "D",
    Session,
    Connection,
    AsyncSession,
    AsyncConnection,
    psycopg.Connection[Any],
    psycopg.AsyncConnection[Any],
    sqlite3.Connection,
)

_actor: ContextVar[str | None] = ContextVar("jobq_actor", default=None)

SCHEMA_VARIABLE = "JOBQ_SCHEMA"
DEFAULT_MAX_ARGS_BYTES = 256 * 1024
JOBS_PER_STATEMENT = 1_000
COPY_FROM_JOBS = 5_000
"""From so many on, COPY is worth its staging table."""


class JobQueue:
    """A queue in one database.

        app = JobQueue("postgresql://localhost/shop")

    Nothing connects until the first job is enqueued, so a module can make one at import.

    - `url`: PostgreSQL or SQLite; from `JOBQ_DATABASE_URL` when not given.
    - `schema`: the PostgreSQL schema of jobq's tables; from `JOBQ_SCHEMA`, else "jobq".
    - `max_args_bytes`: the largest arguments one job may have, in bytes of JSON.
    - `max_connections`: the most this object opens for enqueueing; workers have their own.
    - `keep`: how long the jobs of tasks that do not say themselves are kept after their end; see
      `Retention`.
    - `pooled`: the URL is that of a pooler in transaction mode (PgBouncer); see docs/pgbouncer.md.
    - `encryption`: keys, the newest first, with which arguments and results are encrypted (extra
      `crypto`); from `JOBQ_ENCRYPTION_KEYS`, separated by commas, when not given; see
      docs/security.md.

    Raises InvalidOption or MissingExtra for keys that cannot be used.
    """

    def __init__(
        self,
        url: str | URL | None = None,
        *,
        schema: str | None = None,
        max_args_bytes: int = DEFAULT_MAX_ARGS_BYTES,
        max_connections: int = 10,
        keep: Retention = Retention(),  # noqa: B008 - frozen
        pooled: bool = False,
        encryption: Encryption | Sequence[str] | None = None,
    ) -> None:
        self._given_url = url
        self.schema = schema or os.environ.get(SCHEMA_VARIABLE) or DEFAULT_SCHEMA
        self.max_args_bytes = max_args_bytes
        self.keep = keep
        self.encryption = encryption_of(encryption)
        self._max_connections = max_connections
        self._is_pooled = pooled
        self._tasks: dict[str, Task[..., Any]] = {}
        self._limits: dict[str, Limit] = {}
        self._schedules: dict[str, Schedule] = {}
        self._connections: Database | None = None
        self._is_checked = False
        self._opening = threading.RLock()
        self._middleware: list[Middleware] = []
        self.watcher = EndWatcher(self._opened)
        self.ambiguous = AmbiguousJobs(self)
        """The jobs that wait for a person's decision."""
        self.dead = DeadJobs(self)
        """The dead jobs, to be run again."""
        self.schedules = Schedules(self)
        """The periodic jobs."""
        self.queues = Queues(self)
        """The queues, to be paused and resumed."""
        self.jobs = Jobs(self)
        """All jobs, to be looked at."""
        self.workers = Workers(self)
        """The workers, wherever they run."""
        self.audit = Audit(self)
        """What was done by hand."""

    # -- tasks

    @property
    def tasks(self) -> Mapping[str, Task[..., Any]]:
        """The registered tasks by name."""
        return MappingProxyType(self._tasks)

    def task_of(self, stored: str) -> Task[..., Any] | None:
        """Return the task of jobs that are stored under this name, of whatever version (as
        `JobStatus.task` has it), None if this app does not have it."""
        return self._tasks.get(read_stored(stored)[0])

    @overload
    def task(self, function: Callable[Concatenate[D, Job, P], R], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[Concatenate[Job, D, P], R], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[Concatenate[D, P], R], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[Concatenate[Job, P], R], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        priority: int = 0,
        max_attempts: int = 5,
        retry: Retry | None = None,
        keep: Retention | None = None,
        limits: Sequence[Limit] = (),
        unique: Unique | None = None,
        outside_effects: OutsideEffectsName = "at_least_once",
        keep_result: bool = True,
        process: bool = False,
        memory_mb: int | None = None,
        timeout_s: float | None = None,
        breaker: Breaker | None = None,
        version: int = 1,
        upgrade: Upgrade | None = None,
    ) -> TaskDecorator: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        priority: int = 0,
        max_attempts: int = 5,
        retry: Retry | None = None,
        keep: Retention | None = None,
        limits: Sequence[Limit] = (),
        unique: Unique | None = None,
        outside_effects: OutsideEffectsName = "at_least_once",
        keep_result: bool = True,
        process: bool = False,
        memory_mb: int | None = None,
        timeout_s: float | None = None,
        breaker: Breaker | None = None,
        version: int = 1,
        upgrade: Upgrade | None = None,
    ) -> Any:
        """Register a function as a task.

            @app.task(queue="billing", max_attempts=5)
            def charge(db: Session, order_id: int, cents: int) -> None: ...

        A leading parameter annotated with a session or connection class makes the handler run
        inside the effect transaction: it commits with the job's commit record, or not at all.
        One annotated `Job` receives the job. The rest are the job's arguments.

        - `name`: what the database calls it, by default module and function name.
        - `queue`: the line its jobs wait in.
        - `priority`: -32,768 to 32,767; smaller runs first.
        - `max_attempts`: 1 to 32,767; a job is dead after so many, crashes included.
        - `retry`: the backoff between attempts, and rules for some errors; see `Retry`.
        - `keep`: how long its jobs are kept after their end; the queue's own `keep` when not given.
        - `limits`: how many run at once and how often they begin, wherever they run; see `Limit`.
        - `unique`: which jobs are the same, and what becomes of the second; see `Unique`.
        - `outside_effects`: what follows when an attempt may have done something outside the
          database and nobody knows; see `OutsideEffects`.
        - `keep_result`: keep what the handler returns with its jobs, when its return annotation
          says that it returns something.
        - `process`: run the handler in a process of its own (extra `processes`).
        - `memory_mb`: how many MiB more than that process has already it may take, on Linux.
        - `timeout_s`: how many seconds an attempt may take; see docs/retries.md.
        - `breaker`: when to leave the task alone for a while; see `Breaker`.
        - `version`, `upgrade`: for jobs that older code enqueued; see docs/deploys.md.

        Raises InvalidTask or InvalidOption.
        """
        register = self._registering(
            name,
            Options(queue=queue, priority=priority, max_attempts=max_attempts),
            retry=retry,
            keep=keep,
            limits=limits,
            unique=unique,
            outside_effects=outside_effects,
            keep_result=keep_result,
            is_in_process=process,
            memory_mb=memory_mb,
            timeout_s=timeout_s,
            breaker=breaker,
            version=version,
            upgrade=upgrade,
        )
        return register if function is None else register(function)

    def batch_task(
        self,
        *,
        size: int,
        name: str | None = None,
        queue: str = "default",
        priority: int = 0,
        max_attempts: int = 5,
        retry: Retry | None = None,
        keep: Retention | None = None,
        limits: Sequence[Limit] = (),
        unique: Unique | None = None,
        breaker: Breaker | None = None,
        version: int = 1,
        upgrade: Upgrade | None = None,
    ) -> BatchTaskDecorator:
        """Register a function that does several jobs at once, in one transaction.

            @app.batch_task(size=100)
            def index(db: Session, documents: list[int]) -> None: ...

            index.enqueue(7)

        It takes a session or connection, if it has an effect in the database, and one sequence with
        an item for each job, up to `size` of them: those that wait in the worker at that moment.
        When it raises, nothing is committed, and each half is tried by itself: a job that fails
        alone has failed, and the others are done. The options are those of `task`.

        Raises InvalidTask or InvalidOption.
        """
        if size < 1:
            raise InvalidOption(f"size {size}: a batch has at least one job")
        return self._registering(
            name,
            Options(queue=queue, priority=priority, max_attempts=max_attempts),
            retry=retry,
            keep=keep,
            limits=limits,
            unique=unique,
            outside_effects="at_least_once",
            keep_result=False,
            batch_size=size,
            breaker=breaker,
            version=version,
            upgrade=upgrade,
        )

    def _registering(
        self,
        name: str | None,
        options: Options,
        *,
        retry: Retry | None,
        keep: Retention | None,
        limits: Sequence[Limit],
        unique: Unique | None,
        outside_effects: OutsideEffectsName,
        keep_result: bool,
        batch_size: int | None = None,
        is_in_process: bool = False,
        memory_mb: int | None = None,
        timeout_s: float | None = None,
        breaker: Breaker | None = None,
        version: int = 1,
        upgrade: Upgrade | None = None,
    ) -> Callable[[Callable[..., Any]], Any]:
        if name is not None:
            check_name("task", name)
        policy = policy_of(outside_effects)

        def register(function: Callable[..., Any]) -> Task[..., Any]:
            named = name or _default_name(function)
            if named in self._tasks:
                raise InvalidTask(
                    f"two tasks are named {named!r}: give one of them another name, as in "
                    "@app.task(name=...)"
                )
            check_version(named, version, upgrade)
            handler = inspect_handler(named, function, is_batch=batch_size is not None)
            for limit in limits:
                self._declare(limit)
                handler.arguments.check_names(f"limit {limit.name!r}", limit.by)
            if unique is not None:
                handler.arguments.check_names("unique", unique.by or ())
            check_boundary(named, policy, handler.effect_kind)
            if timeout_s is not None and not 0 < timeout_s < math.inf:
                raise InvalidOption(
                    f"task {named!r}: timeout_s is {timeout_s}: use seconds above 0"
                )
            check_process(named, handler, is_in_process=is_in_process, memory_mb=memory_mb)
            results: SealedResults | None = None
            if keep_result and handler.returned is not None:
                results = SealedResults(named, handler.returned, self.encryption)
            check_rules(named, policy, retry or Retry())
            task: Task[..., Any] = Task(
                self,
                named,
                handler,
                options,
                retry=retry or Retry(),
                keep=keep or self.keep,
                limits=limits,
                unique=unique,
                outside_effects=policy,
                results=results,
                batch_size=batch_size,
                is_in_process=is_in_process,
                memory_mb=memory_mb,
                timeout_s=timeout_s,
                breaker=breaker,
                version=version,
                upgrade=upgrade,
            )
            self._tasks[named] = task
            return task

        return register

    def schedule(
        self,
        name: str,
        cron: str,
        request: JobRequest,
        *,
        timezone: str = "UTC",
        missed: MissedName = "skip",
    ) -> Schedule:
        """Declare a periodic job, which every worker of this app sees to.

            app.schedule("nightly", "30 2 * * *", report.request(), timezone="Europe/Berlin")

        - `name`: what the database calls it.
        - `cron`: minute, hour, day, month, weekday.
        - `request`: the job to enqueue at each tick; without a delay or a deadline of its own.
        - `timezone`: an IANA name, by whose clock the expression is read.
        - `missed`: what becomes of ticks that passed while no worker ran; see `Missed`.

        What it makes are ordinary jobs, one for each tick. Raises InvalidOption.
        """
        if name in self._schedules:
            raise InvalidOption(f"two schedules are named {name!r}: rename one")
        if request.after:
            raise InvalidOption(f"schedule {name!r}: its jobs cannot wait for other jobs")
        if request.deadline is not None:
            raise InvalidOption(f"schedule {name!r}: its jobs cannot have a deadline")
        declared = Schedule(name, cron, request, timezone, missed_of(missed))
        self._schedules[name] = declared
        return declared

    @property
    def middleware(self) -> Sequence[Middleware]:
        """What was given to `use`, the outermost first."""
        return self._middleware

    def use(self, *middleware: Middleware) -> None:
        """Add middleware around the jobs that are enqueued and run from now on; see `Middleware`.

        What is added first is outermost. Raises InvalidOption.
        """
        for each in middleware:
            if not isinstance(each, Middleware):
                raise InvalidOption(f"{each!r} is no jobq.Middleware: derive its class from that")
        self._middleware += middleware

    def _declare(self, limit: Limit) -> None:
        if self._limits.setdefault(limit.name, limit) != limit:
            raise InvalidOption(
                f"two limits are named {limit.name!r} and say different things: make one Limit and "
                "give it to both tasks, or rename one"
            )

    # -- enqueueing

    def enqueue_many(self, requests: Iterable[JobRequest]) -> list[JobHandle]:
        """Enqueue the jobs in one transaction of their own: all of them or none. Blocks.

            app.enqueue_many(charge.request(order_id=n, cents=999) for n in range(1000))

        Returns a handle for each request, in their order. Raises NotMigrated, DatabaseUnavailable;
        JobExists for a unique job that is to raise it.
        """
        return self.database.run(self.enqueueing(list(requests), is_own=True, can_copy=True))

    async def aenqueue_many(self, requests: Iterable[JobRequest]) -> list[JobHandle]:
        """`enqueue_many` for asyncio."""
        database = await asyncio.to_thread(self._opened)
        step = self.enqueueing(list(requests), is_own=True, can_copy=True)
        return await database.run_async(step)

    @overload
    def enqueue_many_in(
        self, connection: BlockingConnection, requests: Iterable[JobRequest]
    ) -> list[JobHandle]: ...
    @overload
    def enqueue_many_in(
        self, connection: AsynchronousConnection, requests: Iterable[JobRequest]
    ) -> Coroutine[Any, Any, list[JobHandle]]: ...
    def enqueue_many_in(
        self,
        connection: BlockingConnection | AsynchronousConnection,
        requests: Iterable[JobRequest],
    ) -> list[JobHandle] | Coroutine[Any, Any, list[JobHandle]]:
        """Enqueue the jobs in the caller's transaction: they exist if and only if it commits.

        With an async session or connection the result is to be awaited. Raises
        UnsupportedConnection; JobExists for a unique job that is to raise it.
        """
        can_copy = isinstance(connection, psycopg.Connection | psycopg.AsyncConnection)
        step = self.enqueueing(list(requests), can_copy=can_copy)
        if isinstance(connection, ASYNC_CONNECTIONS):
            return run_in_async(connection, step, self._backend)
        return run_in(connection, step, self._backend)

    def enqueueing(
        self, requests: Sequence[JobRequest], *, is_own: bool = False, can_copy: bool = False
    ) -> Step[list[JobHandle]]:
        """The step that enqueues, for a transaction that does more.

        `is_own`: it does not; `can_copy`: on a psycopg connection.
        """
        deadlines = [request.deadline for request in requests]
        is_plain = not any(deadline is not None for deadline in deadlines)
        requests = [with_headers(self.middleware, request) for request in requests]
        handles = yield from self._enqueue(requests, is_own=is_own and is_plain, can_copy=can_copy)
        if not is_plain:
            given = {
                handle.id: deadline
                for handle, deadline in zip(handles, deadlines, strict=True)
                if deadline is not None and handle.is_new
            }
            yield from set_deadlines(self._store.portable, given)
        return handles

    def _enqueue(
        self, requests: Sequence[JobRequest], *, is_own: bool = False, can_copy: bool = False
    ) -> Step[list[JobHandle]]:
        if any(request.after for request in requests):
            return [
                JobHandle(job_id, self)
                for job_id in (yield from enqueue_flow(self._store, requests))
            ]
        if any(request.unique is not None for request in requests):
            found = yield from enqueue_unique(self._store, requests)
            return [JobHandle(job_id, self, is_new) for job_id, is_new in found]
        job_ids = yield from self._enqueue_plain(requests, is_own=is_own, can_copy=can_copy)
        return [JobHandle(job_id, self) for job_id in job_ids]

    def _enqueue_plain(
        self, requests: Sequence[JobRequest], *, is_own: bool, can_copy: bool
    ) -> Step[list[int]]:
        if len(requests) <= JOBS_PER_STATEMENT:
            return (yield from self._store.enqueue(requests, is_alone=is_own))
        if can_copy and len(requests) >= COPY_FROM_JOBS:
            return (yield from self._store.enqueue_by_copy(requests))
        job_ids: list[int] = []
        for first in range(0, len(requests), JOBS_PER_STATEMENT):
            job_ids += yield from self._store.enqueue(requests[first : first + JOBS_PER_STATEMENT])
        return job_ids

    # -- jobs

    def status(self, job_id: int) -> JobStatus:
        """Return where a job is. Raises JobNotFound, JobInNoPlace.

        To a database role that may not read what jobs hold, `args` is empty and `result` None.
        """
        try:
            status = self.database.run(self._store.job(job_id))
        except NotPermitted:
            status = self.database.run(self._store.job_without_contents(job_id))
        if status is None:
            raise JobNotFound(f"there is no job {job_id} in this database")
        return status

    def attempts(self, job_id: int) -> list[EndedAttempt]:
        """Return a job's failed, interrupted, expired and healed attempts, oldest first."""
        return self.database.run(self._store.attempts(job_id))

    def steps(self, job_id: int) -> list[RecordedStep]:
        """Return what the job's handler had recorded by `job.step`, oldest first."""
        return self.database.run(steps_of(self._store.portable, job_id))

    def progress(self, job_id: int) -> Progress | None:
        """Return what a job's handler said last of how far it has come; None if nothing yet."""
        return self.database.run(progress_of(self._store.portable, job_id))

    def cancel(self, job_id: int) -> bool:
        """Record a job's fate as cancelled; return whether it was still open.

        A job that waits never runs. One that runs is told (an `async def` handler is cancelled)
        and its commit is refused, unless it came first. Raises JobNotFound.
        """
        return self.act("job.cancel", job_id, self._store.cancel(job_id))

    # -- what is done by hand

    @contextmanager
    def acting_as(self, actor: str) -> Iterator[Self]:
        """Keep an account of what is done in a block, in this thread or task, under a name.

            with app.acting_as("ada@example.org"):
                app.queues.pause("billing")

        Each action that changes something (cancel, retry, pause, resolve, ...) leaves a row in
        `app.audit`, in its own transaction. Nothing else is told of.
        """
        token = _actor.set(actor)
        try:
            yield self
        finally:
            _actor.reset(token)

    def act(self, action: str, subject: object, step: Step[T], details: str | None = None) -> T:
        """Run the step of an action that somebody takes by hand; see `acting_as`."""
        actor = _actor.get()
        if actor is not None:
            step = audited(self._store.portable, actor, action, str(subject), details, step)
        return self.database.run(step)

    # -- workers

    def worker(self, **settings: Unpack[WorkerSettings]) -> RunningWorker:
        """Return a worker to run inside a service, for as long as a block lasts.

            async with app.worker(concurrency=4): ...   # on this event loop
            with app.worker(concurrency=4): ...         # on a thread of its own

        The settings are `WorkerOptions`: `queues`, `concurrency`, `lease_s` and so on. Leaving
        the block stops the worker as SIGTERM would. Signals are left to the service. Raises
        InvalidOption; entering the block raises NotMigrated or DatabaseUnavailable.
        """
        return RunningWorker(self._worker(settings))

    async def run_worker(
        self, *, handle_signals: bool = True, **settings: Unpack[WorkerSettings]
    ) -> None:
        """Run a worker until SIGTERM, SIGINT or cancellation stops it; see `worker`.

        A second signal stops at once. `handle_signals`: False leaves them to the caller, who then
        cancels. Raises InvalidOption, NotMigrated or DatabaseUnavailable before it starts.
        """
        await self._worker(settings).run(handle_signals=handle_signals)

    def _worker(self, settings: WorkerSettings) -> Worker:
        try:
            options = WorkerOptions(**settings)
        except TypeError as error:
            raise InvalidOption(f"worker settings: {error}") from error
        schedules = list(self._schedules.values())
        tasks = {stored: task for task in self._tasks.values() for stored in task.stored_names}
        return Worker(tasks, self.open_database, options, schedules, self._middleware)

    # -- the database

    @property
    def url(self) -> URL:
        """The database's URL. Raises InvalidDatabaseURL."""
        return parse_url(self._given_url)

    @property
    def database(self) -> Database:
        """The connections for enqueueing, opened and checked when first asked for.

        Raises DatabaseUnavailable, NotMigrated, SchemaTooNew or UnsupportedDatabase.
        """
        return self._opened()

    def open_database(
        self, *, max_connections: int, idle_in_transaction_s: float | None = None
    ) -> Database:
        """Open further connections to the same database, for a worker."""
        return open_database(
            self.url,
            schema=self.schema,
            max_connections=max_connections,
            idle_in_transaction_s=idle_in_transaction_s,
            is_pooled=self._is_pooled,
        )

    @contextmanager
    def on(self, url: str | URL) -> Iterator[Self]:
        """Work on another database for a block: for tests of a module's own app.

            with app.on("sqlite:///test.db"):
                charge.enqueue(order_id=7)  # there, and its worker runs there too

        For this object alone, and for all threads that use it. The connections for enqueueing are
        closed where the block begins and ends; a worker that was started before goes on where it
        is. The tables are in the schema that this app names. Raises InvalidDatabaseURL.
        """
        other = parse_url(url)
        with self._opening:
            self.close()
            given, self._given_url = self._given_url, other
        try:
            yield self
        finally:
            with self._opening:
                self.close()
                self._given_url = given

    def close(self) -> None:
        """Close the connections for enqueueing; they open again when needed."""
        with self._opening:
            if self._connections is not None:
                self._connections.close()
                self._connections = None
                self._is_checked = False

    async def aclose(self) -> None:
        """Close the connections for enqueueing, the running event loop's too."""
        if self._connections is not None:
            await self._connections.aclose()
        self.close()

    @property
    def _store(self) -> Store:
        return self._unopened().store

    @property
    def _backend(self) -> Backend:
        return backend_of(self.url)

    def _unopened(self) -> Database:
        """The connections, none of them made yet: enough to enqueue on a caller's."""
        with self._opening:
            if self._connections is None:
                self._connections = self.open_database(max_connections=self._max_connections)
            return self._connections

    def _opened(self) -> Database:
        with self._opening:
            database = self._unopened()
            if not self._is_checked:
                database.check()
                self._is_checked = True
            return database


class TaskDecorator(Protocol):
    """What `@app.task(...)` returns: it takes a handler and gives its `Task`."""

    @overload
    def __call__(self, function: Callable[Concatenate[D, Job, P], R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Job, D, P], R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[D, P], R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Job, P], R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BatchTaskDecorator(Protocol):
    """What `@app.batch_task(...)` returns: a handler of items becomes the `Task` of one item."""

    @overload
    def __call__(self, function: Callable[[D, list[T]], R], /) -> Task[[T], None]: ...
    @overload
    def __call__(self, function: Callable[[D, Sequence[T]], R], /) -> Task[[T], None]: ...
    @overload
    def __call__(self, function: Callable[[list[T]], R], /) -> Task[[T], None]: ...
    @overload
    def __call__(self, function: Callable[[Sequence[T]], R], /) -> Task[[T], None]: ...


def _default_name(function: Callable[..., Any]) -> str:
    """Module and function name; a script run as __main__ is named as its importers name it."""
    module = getattr(function, "__module__", type(function).__module__)
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        module = spec.name if spec is not None else Path(getattr(main, "__file__", "main")).stem
    return f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"

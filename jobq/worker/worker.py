"""The worker's loop: one transaction reports what ended, promotes what is due, claims what is next.

    claim -> buffer -> handler -> report -> (with the next claim) the database

The loop runs on asyncio; its transactions run on one thread with one connection. Everything that
keeps the promise is in the protocol: a worker that dies at any line loses nothing but time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import signal
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from jobq.database.base import Database, Link
from jobq.errors import DatabaseUnavailable, InvalidTask
from jobq.protocol.budget import RetryBudget
from jobq.protocol.cursor import ClaimCursor
from jobq.protocol.retry import Retry
from jobq.protocol.values import (
    ClaimedJob,
    Heartbeat,
    LeasedAttempt,
    Recovered,
    RefusedReport,
)
from jobq.store.step import Step
from jobq.task import Task
from jobq.worker.attempt import Attempt
from jobq.worker.heartbeat import HeartbeatThread
from jobq.worker.maintenance import Pruner
from jobq.worker.options import WorkerOptions
from jobq.worker.reports import Reports, Sent

T = TypeVar("T")

logger = logging.getLogger("jobq.worker")

PROMOTE_LIMIT = 1_000
PROMOTE_INTERVAL_S = 0.5
RECONCILE_LIMIT = 100
UNKNOWN_TASKS_INTERVAL_S = 60.0
RECONNECT = Retry(base_s=0.2, cap_s=5.0)
START_PATIENCE_S = 10.0
"""How long a starting worker waits for a database that does not answer."""
LAST_WORDS_S = 5.0
"""How long a stopping worker tries to hand in its last reports."""
BUSY_PAUSE_S = 0.5
"""How long to leave a lease that another session has locked."""


class OpenDatabase(Protocol):
    def __call__(
        self, *, max_connections: int, idle_in_transaction_s: float | None = None
    ) -> Database: ...


@dataclass(frozen=True, slots=True)
class Cycle:
    """What one transaction of the loop brought."""

    sent: Sent
    claimed: list[ClaimedJob]
    asked_s: float
    """When it began, on the monotonic clock: the leases are no younger than this."""


class Worker:
    """Runs the jobs of the given tasks until it is stopped. One object, one run."""

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        open_database: OpenDatabase,
        options: WorkerOptions,
    ) -> None:
        self.id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.options = options
        self._tasks = tasks
        self._database = open_database(
            max_connections=options.concurrency,
            idle_in_transaction_s=options.idle_in_transaction_s,
        )
        self._check_tasks()
        self._control: Link = self._database.link()
        self._control_thread = ThreadPoolExecutor(1, thread_name_prefix="jobq-control")
        self._handler_threads = ThreadPoolExecutor(
            options.concurrency, thread_name_prefix="jobq-handler"
        )
        self._heartbeat = HeartbeatThread(
            self._database, self.id, options.lease_s, self._tell_from_thread
        )
        self._budgets = {name: RetryBudget(task.retry) for name, task in tasks.items()}
        self._pruner = Pruner(
            self._database.store,
            {name: task.keep for name, task in tasks.items()},
            options.prune_s,
        )
        self._cursor = ClaimCursor()
        self._queues: list[str] = []
        self._buffer: deque[Attempt] = deque()
        self._running: dict[asyncio.Task[Any], Attempt] = {}
        self._reports = Reports()
        self._warned_of: set[str] = set()
        self._next_promote_s = self._next_reconcile_s = self._next_unknown_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._is_hurried = False
        self.started = asyncio.Event()
        """Set when the worker has connected and begins to claim."""

    # -- its life

    async def run(self, *, handle_signals: bool = False) -> None:
        """Work until `stop`, a signal (when handled) or cancellation; then drain.

        Raises DatabaseUnavailable, NotMigrated, SchemaTooNew or UnsupportedDatabase when it
        cannot start; once started, it waits for a database that is away.
        """
        self._loop = asyncio.get_running_loop()
        await self._check_database()
        if handle_signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._on_signal, number)
        self._heartbeat.start()
        self.started.set()
        logger.info(
            "worker %s serves %s with %d tasks, %d at once",
            self.id,
            "all queues" if self.options.queues is None else ", ".join(self.options.queues),
            len(self._tasks),
            self.options.concurrency,
        )
        try:
            await self._serve()
        finally:
            # Cancelled or not, what is under way is brought to an end first.
            await asyncio.shield(self._drain())
            if handle_signals:
                for number in (signal.SIGTERM, signal.SIGINT):
                    self._loop.remove_signal_handler(number)

    async def _check_database(self) -> None:
        """Wait a little for a database that is being restarted; then say that it is not there."""
        deadline_s = time.monotonic() + START_PATIENCE_S
        while True:
            try:
                await asyncio.to_thread(self._database.check)
            except DatabaseUnavailable as error:
                if time.monotonic() >= deadline_s or self._is_stopping:
                    raise
                logger.warning("waiting for the database: %s", error)
                await self._wait(1.0, until_woken=False)
            else:
                return

    def stop(self, *, hurry: bool = False) -> None:
        """Stop claiming and drain; with `hurry`, or when called again, without the grace period.

        May be called from any thread.
        """
        if self._loop is None or self._loop.is_closed():
            self._is_stopping = True
            return
        self._loop.call_soon_threadsafe(self._stop, hurry)

    def _on_signal(self, number: signal.Signals) -> None:
        logger.info("%s: the worker stops", signal.Signals(number).name)
        self._stop(hurry=False)

    def _stop(self, hurry: bool) -> None:
        self._is_hurried = self._is_hurried or hurry or self._is_stopping
        self._is_stopping = True
        self._wake.set()

    @property
    def has_abandoned_handlers(self) -> bool:
        """Whether handlers were left running: in threads, which Python waits for at exit, or as
        coroutines that refuse to be cancelled."""
        return bool(self._running)

    # -- working

    async def _serve(self) -> None:
        failures = 0
        while not self._is_stopping:
            self._wake.clear()
            try:
                await self._reconcile_when_due()
                if self._pruner.is_due:
                    await self._on_control(lambda: self._pruner.run(self._control))
                await self._cycle(self._free())
                failures = 0
            except DatabaseUnavailable as error:
                failures += 1
                pause_s = RECONNECT.delay_s(failures, random.uniform(0.5, 1))  # noqa: S311
                logger.warning("the database is away, trying again in %.1f s: %s", pause_s, error)
                await self._wait(pause_s, until_woken=False)
                continue
            self._start_buffered()
            if not len(self._reports):
                await self._wait(self.options.poll_s * random.uniform(1, 1.25))  # noqa: S311

    def _free(self) -> int:
        return self.options.capacity - len(self._buffer) - len(self._running)

    async def _wait(self, at_most_s: float, *, until_woken: bool = True) -> None:
        """Sleep until an attempt ends, the worker is stopped, or the time is over."""
        deadline_s = time.monotonic() + at_most_s
        while (left_s := deadline_s - time.monotonic()) > 0 and not self._is_stopping:
            try:
                await asyncio.wait_for(self._wake.wait(), left_s)
            except TimeoutError:
                return
            if until_woken:
                return
            self._wake.clear()

    async def _cycle(self, limit: int) -> None:
        """Hand in the reports and claim up to `limit` jobs, in one transaction."""
        sending, self._reports = self._reports, Reports()
        try:
            cycle = await self._on_control(lambda: self._run_cycle(sending, limit))
        except BaseException:
            # Not known to have been taken: send them again. Each is fenced by its token.
            sending.extend(self._reports)
            self._reports = sending
            raise
        self._note(cycle.sent)
        for claimed in cycle.claimed:
            self._heartbeat.add(claimed.lease, cycle.asked_s)
            task, budget = self._tasks[claimed.task], self._budgets[claimed.task]
            self._buffer.append(Attempt(claimed, task, self._database, budget))
        if limit and len(cycle.claimed) < limit:
            await self._warn_of_unknown_tasks()

    def _run_cycle(self, reports: Reports, limit: int) -> Cycle:
        asked_s = time.monotonic()
        try:
            sent, claimed = self._control.run(self._cycle_step(reports, limit))
        except DatabaseUnavailable:
            raise
        except Exception:
            if not len(reports):
                raise
            # One bad report must not hold up the others, nor the queue.
            logger.exception("a group of %d reports was refused; sending one by one", len(reports))
            sent, claimed = self._send_singly(reports), []
        return Cycle(sent, claimed, asked_s)

    def _cycle_step(self, reports: Reports, limit: int) -> Step[tuple[Sent, list[ClaimedJob]]]:
        store = self._database.store
        sent = yield from reports.send(store, self.id)
        if limit <= 0 or not self._tasks:
            return sent, []
        if time.monotonic() >= self._next_promote_s:
            moved = yield from store.promote(PROMOTE_LIMIT)
            if moved < PROMOTE_LIMIT:
                self._next_promote_s = time.monotonic() + PROMOTE_INTERVAL_S
        began_s = time.monotonic()
        if self._cursor.is_at_head(began_s):
            self._queues = list(self.options.queues or (yield from store.ready_queues()))
        random.shuffle(self._queues)  # no queue is always served first
        claimed: list[ClaimedJob] = []
        if self._queues:
            claimed = yield from store.claim(
                worker=self.id,
                queues=self._queues,
                tasks=list(self._tasks),
                limit=limit,
                lease_s=self.options.lease_s,
                since=self._cursor.since(began_s),
            )
        self._cursor.advance(claimed, began_s, time.monotonic())
        return sent, claimed

    def _send_singly(self, reports: Reports) -> Sent:
        again = Reports()
        refused: list[RefusedReport] = []
        for report in reports.singly():
            try:
                sent = self._control.run(report.send(self._database.store, self.id))
            except DatabaseUnavailable:
                again.extend(report)
            except Exception:
                logger.exception("report given up; the job is recovered when its lease expires")
            else:
                again.extend(sent.again)
                refused += sent.refused
        return Sent(again, tuple(refused))

    def _note(self, sent: Sent) -> None:
        if len(sent.again):
            assert self._loop is not None
            self._loop.call_later(BUSY_PAUSE_S, self._report_again, sent.again)
        for report in sent.refused:
            logger.warning(
                "job %d: the attempt with token %d was refused (%s, %s); it changed nothing",
                report.lease.job_id,
                report.lease.token,
                report.stage.value,
                report.reason,
            )

    def _report_again(self, reports: Reports) -> None:
        self._reports.extend(reports)
        self._wake.set()

    def _start_buffered(self) -> None:
        while self._buffer and len(self._running) < self.options.concurrency:
            attempt = self._buffer.popleft()
            if self._heartbeat.has_expired(attempt.lease):
                # The process was frozen, or the database away: leave it to the reconciler.
                self._heartbeat.remove(attempt.lease)
                continue
            running = attempt.start(self._handler_threads)
            self._running[running] = attempt
            running.add_done_callback(self._on_ended)

    def _on_ended(self, running: asyncio.Task[Any]) -> None:
        attempt = self._running.pop(running, None)
        if attempt is None:
            return  # interrupted, and reported as such
        self._heartbeat.remove(attempt.lease)
        if running.cancelled():  # before its first step
            self._reports.add(attempt.interrupt())
        else:
            self._reports.add(running.result())
        if not self._is_stopping:
            self._start_buffered()
        self._wake.set()

    # -- leases

    def _tell_from_thread(self, learned: Heartbeat) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._tell, learned)

    def _tell(self, learned: Heartbeat) -> None:
        kept = deque[Attempt]()
        for attempt in self._buffer:
            if attempt.lease in learned.lost:
                self._heartbeat.remove(attempt.lease)
            elif attempt.lease in learned.cancelled:
                self._heartbeat.remove(attempt.lease)
                self._reports.committed.append(attempt.lease)  # its fate is there: finalize
            else:
                kept.append(attempt)
        self._buffer = kept
        for attempt in self._running.values():
            if attempt.lease in learned.lost:
                logger.warning("job %d: its lease was lost", attempt.lease.job_id)
                self._heartbeat.remove(attempt.lease)
                attempt.lose()
            elif attempt.lease in learned.cancelled and not attempt.fate.lease_lost.is_set():
                logger.info("job %d was cancelled", attempt.lease.job_id)
                attempt.cancel()
        self._wake.set()

    # -- maintenance

    async def _reconcile_when_due(self) -> None:
        if time.monotonic() < self._next_reconcile_s:
            return
        interval_s = self.options.reconcile_interval_s
        # Drawn apart, so that many workers do not all look at once.
        self._next_reconcile_s = time.monotonic() + interval_s * random.uniform(0.75, 1.25)  # noqa: S311
        step = self._database.store.reconcile(RECONCILE_LIMIT, self._retry_delay_s)
        recovered: Recovered = await self._on_control(lambda: self._control.run(step))
        if recovered.total == RECONCILE_LIMIT:
            self._next_reconcile_s = 0.0
        if recovered.total:
            logger.warning(
                "recovered expired leases: %d finalized (committed before), %d to be retried, "
                "%d dead",
                len(recovered.healed),
                len(recovered.retried),
                len(recovered.dead),
            )

    def _retry_delay_s(self, attempt: LeasedAttempt) -> float:
        """The jobs of a crowd of expired leases are not all to be due at once either."""
        budget = self._budgets.setdefault(attempt.task, RetryBudget(Retry()))
        return budget.delay_s(attempt.attempt, random.random())  # noqa: S311

    async def _warn_of_unknown_tasks(self) -> None:
        """A rolling deploy enqueues what this version does not know: leave it, say so once."""
        if time.monotonic() < self._next_unknown_s:
            return
        self._next_unknown_s = time.monotonic() + UNKNOWN_TASKS_INTERVAL_S

        def look() -> Step[list[str]]:
            store = self._database.store
            queues = self.options.queues or (yield from store.ready_queues())
            return (yield from store.unknown_tasks(queues=queues, tasks=list(self._tasks)))

        unknown = await self._on_control(lambda: self._control.run(look()))
        for task in set(unknown) - self._warned_of:
            self._warned_of.add(task)
            logger.warning(
                "jobs wait for task %r, which this worker does not have; it leaves them, with no "
                "attempt spent, to a worker that does",
                task,
            )

    def _check_tasks(self) -> None:
        if not self._tasks:
            raise InvalidTask(
                "this app has no tasks: import the modules that register them where the app is made"
            )
        for task in self._tasks.values():
            kind = task.handler.effect_kind
            if kind is not None and not self._database.supports(kind):
                raise InvalidTask(
                    f"task {task.name!r} asks for a {kind.__module__}.{kind.__qualname__}, which "
                    f"the queue's database ({self._database.url.get_backend_name()}) has not"
                )

    # -- stopping

    async def _drain(self) -> None:
        """Give back what never started, wait for what runs, hand in the last reports."""
        self._is_stopping = True
        await self._give_back_unstarted()
        await self._wait_for_handlers()
        await self._interrupt_handlers()
        await self._try_last(self._hand_in, "hand in the last reports")
        goodbye = self._database.store.stop_worker(self.id)
        await self._try_last(lambda: self._on_control(lambda: self._control.run(goodbye)), "leave")
        await asyncio.to_thread(self._heartbeat.stop)
        self._handler_threads.shutdown(wait=False, cancel_futures=True)
        self._control_thread.shutdown(wait=True)
        self._control.close()
        await self._database.aclose()
        self._database.close()
        logger.info("worker %s stopped", self.id)

    async def _give_back_unstarted(self) -> None:
        unstarted = [attempt.lease for attempt in self._buffer]
        self._buffer.clear()
        if not unstarted:
            return
        for lease in unstarted:
            self._heartbeat.remove(lease)

        async def release() -> None:
            step = self._database.store.release(unstarted)
            await self._on_control(lambda: self._control.run(step))

        await self._try_last(release, "give back unstarted jobs")

    async def _wait_for_handlers(self) -> None:
        deadline_s = time.monotonic() + self.options.grace_s
        while self._running and not self._is_hurried and time.monotonic() < deadline_s:
            self._wake.clear()
            await self._try_last(self._hand_in, "report", patience_s=0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._wake.wait(), max(0.0, min(deadline_s - time.monotonic(), 1.0))
                )

    async def _interrupt_handlers(self) -> None:
        """Cancelled coroutines end now, rolling back; threads cannot be stopped, only outlived."""
        interrupted = list(self._running.items())
        for running, attempt in interrupted:
            running.remove_done_callback(self._on_ended)
            self._reports.add(attempt.interrupt())
        coroutines = [running for running, attempt in interrupted if attempt.is_async]
        if coroutines:
            await asyncio.wait(coroutines, timeout=LAST_WORDS_S)
        for running, _ in interrupted:
            if running.done():
                del self._running[running]
        if interrupted:
            logger.warning("%d handlers were interrupted", len(interrupted))

    async def _hand_in(self) -> None:
        if len(self._reports):
            await self._cycle(limit=0)

    async def _try_last(
        self,
        action: Callable[[], Awaitable[object]],
        what: str,
        *,
        patience_s: float = LAST_WORDS_S,
    ) -> None:
        """Do it for as long as it is worth waiting: what is not told, the lease's end will tell."""
        deadline_s = time.monotonic() + patience_s
        while True:
            try:
                await action()
            except DatabaseUnavailable as error:
                if time.monotonic() >= deadline_s or self._is_hurried:
                    logger.warning("could not %s: %s", what, error)
                    return
                await asyncio.sleep(0.2)
            except Exception:
                logger.exception("could not %s", what)
                return
            else:
                return

    async def _on_control(self, action: Callable[[], T]) -> T:
        assert self._loop is not None
        return await self._loop.run_in_executor(self._control_thread, action)

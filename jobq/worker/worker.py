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
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, Protocol, TypeVar

from jobq.commit import Relay
from jobq.database.base import Database, Link
from jobq.errors import DatabaseUnavailable, InvalidTask
from jobq.logs import FieldLogger
from jobq.middleware import Middleware, tell
from jobq.protocol.budget import RetryBudget
from jobq.protocol.cursor import HIDDEN_S, ClaimCursor
from jobq.protocol.fairness import LOWER_SHARE, begin_lower
from jobq.protocol.retry import Retry
from jobq.protocol.schedule import Schedule
from jobq.protocol.values import (
    Claim,
    ClaimedJob,
    Exchanged,
    Heartbeat,
    Lease,
    LeasedAttempt,
    Recovered,
    RefusedReport,
)
from jobq.protocol.views import WorkerAbout
from jobq.store.base import LISTEN_AGAIN_S, NOTHING
from jobq.store.deadlines import bury_late
from jobq.store.step import Step
from jobq.task import Task
from jobq.worker.apart import ASIDE_S, NO_ROWS_FAULT, Apart
from jobq.worker.attempt import Attempt
from jobq.worker.breakers import Breakers
from jobq.worker.dependents import Dependents
from jobq.worker.heartbeat import HeartbeatThread
from jobq.worker.limited import LimitedLines
from jobq.worker.maintenance import Pruner
from jobq.worker.options import WorkerOptions
from jobq.worker.prefetch import STUCK_S, Prefetch
from jobq.worker.processes import HandlerProcesses, Where, check_pebble
from jobq.worker.reports import Report, Reports, Sent, as_reports
from jobq.worker.scheduler import Scheduler
from jobq.worker.threads import HandlerThreads
from jobq.worker.workload import Unit, Workload

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
PACE_S = 0.01
"""How long a worker that has jobs in hand gathers reports for its next turn, at most."""
BUSY_S = 0.1
"""A worker that found something to do each time for so long needs no notifications."""
LOOKS_S = (0.002, 0.01, 0.03)
"""How long to pause before looking again, and again, before asking for notifications: under a
steady stream there is something by then, and an enqueue that notifies costs more than one."""
FEW_QUEUES = 16
"""So many are asked for jobs whether they have any or not."""
LARGEST_ROOM = 2**31
BUSY_PAUSE_S = 0.5
"""How long to leave a lease that another session has locked."""


class OpenDatabase(Protocol):
    def __call__(
        self, *, max_connections: int, idle_in_transaction_s: float | None = None
    ) -> Database: ...


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of the loop brought."""

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
        schedules: Sequence[Schedule] = (),
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self.id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.options = options
        self.log = FieldLogger(logger, worker=self.id)
        self._tasks = tasks
        self._middleware = middleware
        self._database = open_database(
            max_connections=options.concurrency,
            idle_in_transaction_s=options.idle_in_transaction_s,
        )
        check_tasks(tasks, self._database)
        self._control: Link = self._database.link(listens=True)
        self._control_thread = ThreadPoolExecutor(1, thread_name_prefix="jobq-control")
        about = WorkerAbout(
            options.names, options.concurrency, options.lease_s, len(tasks), version("jobq")
        )
        self._heartbeat = HeartbeatThread(
            self._database, self.id, options.lease_s, self._tell_from_thread, about.encode()
        )
        self._work = Workload(options.concurrency, self._is_stale)
        self._handler_threads = HandlerThreads(
            options.concurrency, self._run_in_thread, self._work.follow
        )
        self._processes = HandlerProcesses(
            min(options.concurrency, os.cpu_count() or 1),
            Where(
                self._database.url.render_as_string(hide_password=False),
                self._database.schema,
                options.idle_in_transaction_s,
                self._database.is_pooled,
                self.id,
            ),
        )
        self._prefetch = Prefetch(
            options.concurrency,
            options.prefetch,
            time.monotonic(),
            gathers=any(task.batch_size for task in tasks.values()),
        )
        self._budgets = {name: RetryBudget(task.retry) for name, task in tasks.items()}
        self._pruner = Pruner(
            self._database.store,
            {name: task.keep for name, task in tasks.items()},
            options.prune_s,
            log=self.log,
        )
        self._apart = Apart(self._database.store, self._control, self.log)
        self._cursor = ClaimCursor()
        self._scheduler = Scheduler(self._database.store, schedules)
        self._breakers = Breakers(tasks, self.log)
        self._dependents = Dependents(self._database.store)
        self._limited = LimitedLines(self._database.store, self.id, tasks, options)
        self._served = None if options.queues is None else frozenset(options.queues)
        self._caps = options.caps
        self._queues = [] if self._caps else list(options.queues or ())
        self._fell_short = False
        """Whether the last claim asked some of the queues only, and did not get enough."""
        self._looked_from_head = True
        self._has_backlog = False
        """Whether the last claim got all that it asked for: there is more where that came from."""
        self._warned_of: set[str] = set()
        self._next_promote_s = self._next_reconcile_s = self._next_unknown_s = 0.0
        self._next_queues_s = self._next_refused_s = 0.0
        self._closing: set[asyncio.Task[None]] = set()
        """Effects that were begun and not needed; the loop itself keeps no task alive."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._is_roused = False
        self._is_idle = False
        """Whether the loop sleeps until something happens."""
        self._busy_since_s: float | None = None
        self._dry_looks = 0
        """How often it has looked in vain since it last found something to do."""
        self._listens_until_s = 0.0
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
        self.log.info(
            "worker %s serves %s with %d tasks, %d at once",
            self.id,
            "all queues" if self.options.queues is None else ", ".join(self.options.queues),
            len(self._tasks),
            self.options.concurrency,
            extra={"queues": self.options.names, "concurrency": self.options.concurrency},
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
                self.log.warning("waiting for the database: %s", error, extra=_about(error))
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
        name = signal.Signals(number).name
        self.log.info("%s: the worker stops", name, extra={"signal": name})
        self._stop(hurry=False)

    def _stop(self, hurry: bool) -> None:
        self._is_hurried = self._is_hurried or hurry or self._is_stopping
        self._is_stopping = True
        self._wake.set()

    @property
    def has_abandoned_handlers(self) -> bool:
        """Whether handlers were left running: in threads, which Python waits for at exit, or as
        coroutines that refuse to be cancelled."""
        return self._work.has_abandoned

    # -- working

    async def _serve(self) -> None:
        failures = 0
        while not self._is_stopping:
            self._settle_down()
            try:
                await self._reconcile_when_due()
                if self._scheduler.is_undeclared:
                    await self._on_control(lambda: self._scheduler.declare(self._control))
                if self._limited.is_undeclared:
                    await self._on_control(lambda: self._limited.declare(self._control))
                if paused := self._breakers.take_opened():
                    await self._give_back(self._work.take_waiting_of(paused))
                self._prefetch.observe(self._work.count_ended(), time.monotonic())
                if self._prefetch.gives_back:
                    await self._give_back_stuck()
                if self._pruner.is_due:
                    await self._on_control(lambda: self._pruner.run(self._control))
                await self._turn(self._work.room(self._prefetch.ahead))
                failures = 0
            except DatabaseUnavailable as error:
                self._listens_until_s = 0.0  # a server that crashed has forgotten it
                failures += 1
                pause_s = RECONNECT.delay_s(failures, random.uniform(0.5, 1))  # noqa: S311
                self.log.warning(
                    "the database is away, trying again in %.1f s: %s",
                    pause_s,
                    error,
                    extra=_about(error) | {"pause_s": pause_s},
                )
                await self._wait(pause_s, until_woken=False)
                continue
            self._start_waiting()
            try:
                await self._wait_for_turn()
            except DatabaseUnavailable:
                continue  # the turn will tell

    async def _give_back_stuck(self) -> None:
        """The handlers were quick when these were leased, and are not any more."""
        if leases := self._work.take_stuck(STUCK_S):
            self._prefetch.stall()  # else the same turn would take them again, by the old rate
            await self._give_back(leases)
            self.log.info(
                "gave back %d jobs: no handler has been free for them for %g s",
                len(leases),
                STUCK_S,
                extra={"count": len(leases)},
            )

    async def _give_back(self, leases: Sequence[Lease]) -> None:
        """To their queues, with no attempt spent: they never started."""
        if leases:
            for lease in leases:
                self._heartbeat.remove(lease)
            step = self._database.store.release(leases)
            await self._on_control(lambda: self._control.run(step))

    async def _wait_for_turn(self) -> None:
        if self._is_turn_due():
            return
        if self._work.reports:
            await self._wait(PACE_S)
        elif not self._has_backlog and not self._is_listening and self._control.is_told:
            if self._dry_looks < len(LOOKS_S):
                await self._wait(LOOKS_S[self._dry_looks])
                self._dry_looks += 1
            else:
                await self._listen()
        else:
            assert self._loop is not None
            pause_s = self.options.poll_s * random.uniform(1, 1.5)  # noqa: S311
            if self._work.room(self._prefetch.ahead) > 0:
                # With its hands full it claims nothing, and would not so much as yield to the loop.
                pause_s = min(
                    pause_s,
                    self._limited.until_due_s(),
                    self._scheduler.until_due_s(),
                    self._breakers.until_probe_s(),
                )
                if not self._looked_from_head:
                    pause_s = min(pause_s, self._cursor.until_head_s(time.monotonic()))
            with self._control.watched(self._loop, self._rouse):
                self._is_idle = True
                await self._wait(pause_s)
                self._is_idle = False

    async def _listen(self) -> None:
        """Be told of what is enqueued from now on. The next turn looks for what was before."""
        step = self._database.store.listen(self.id, self.options.names)
        await self._on_control(lambda: self._control.run(step))
        self._listens_until_s = time.monotonic() + LISTEN_AGAIN_S

    async def _unlisten(self) -> None:
        """While there is always more to do, nobody needs to say so."""
        self._listens_until_s = 0.0
        step = self._database.store.unlisten(self.id)
        await self._on_control(lambda: self._control.run(step))

    @property
    def _is_busy(self) -> bool:
        since_s = self._busy_since_s
        return since_s is not None and time.monotonic() - since_s > BUSY_S

    @property
    def _is_listening(self) -> bool:
        return time.monotonic() < self._listens_until_s

    def _is_turn_due(self) -> bool:
        """With more to be had, when half of what is to wait here has been started: the next comes
        while the handlers still have the other half. Else as soon as there is something to tell."""
        if self._has_backlog and self._work.room(self._prefetch.ahead) > 0:
            return 2 * self._work.waiting <= self._prefetch.ahead
        return self._work.reports > 0

    async def _wait(self, at_most_s: float, *, until_woken: bool = True) -> None:
        """Sleep until there is something to do, the worker is stopped, or the time is over."""
        deadline_s = time.monotonic() + at_most_s
        while (left_s := deadline_s - time.monotonic()) > 0 and not self._is_stopping:
            try:
                async with asyncio.timeout(left_s):
                    await self._wake.wait()
            except TimeoutError:
                return
            if until_woken:
                return
            self._settle_down()

    def _settle_down(self) -> None:
        self._wake.clear()
        self._is_roused = False

    def _rouse(self) -> None:
        """Wake the loop, from any thread; once is enough until it sleeps again."""
        if not self._is_roused:
            self._is_roused = True
            assert self._loop is not None
            # A handler that outlived its worker finds the loop closed, and nobody to wake.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake.set)

    async def _turn(self, limit: int) -> None:
        """Hand in the reports and claim up to `limit` jobs."""
        sending = self._work.take_reports()
        if limit <= 0 and not len(sending):
            return
        try:
            turn = await self._on_control(lambda: self._take_turn(sending, limit))
        except BaseException:
            # Not known to have been taken: send them again. Each is fenced by its token.
            self._work.report(sending)
            raise
        self._note(turn.sent)
        self._heartbeat.add((claimed.lease for claimed in turn.claimed), turn.asked_s)
        self._work.add(self._attempt(claimed) for claimed in turn.claimed)
        if not self._next_promote_s:
            self._wake.set()  # jobs that waited for others are due
        if limit > 0:
            self._has_backlog = (
                len(turn.claimed) == limit or self._fell_short or self._limited.until_due_s() <= 0
            )
            if not turn.claimed:
                self._busy_since_s = None
            elif self._busy_since_s is None:
                self._busy_since_s = time.monotonic()
            else:
                self._dry_looks = 0
            if not self._has_backlog:
                await self._warn_of_unknown_tasks()
            if self._is_listening and self._is_busy:
                await self._unlisten()

    def _attempt(self, claimed: ClaimedJob) -> Attempt:
        task = self._tasks[claimed.task]
        return Attempt(
            claimed,
            task,
            self._database,
            self._budgets[claimed.task],
            self._heartbeat.report_progress,
            self._processes if task.is_in_process else None,
            worker=self.id,
        )

    def _take_turn(self, reports: Reports, limit: int) -> Turn:
        asked_s = time.monotonic()
        exchanged = Exchanged([], [])
        try:
            if limit > 0 or reports.returned or reports.committed:
                exchanged = self._control.run(self._exchange(reports, limit))
        except NO_ROWS_FAULT:
            raise
        except Exception:
            # One bad row, in what is told or in what is asked for, must not hold up the others.
            if len(reports) or asked_s >= self._next_refused_s:  # it may be there for long
                self._next_refused_s = asked_s + ASIDE_S
                self.log.exception(
                    "a turn with %d reports was refused; taking it apart",
                    len(reports),
                    extra={"count": len(reports)},
                )
            return Turn(self._send_singly(reports), self._claim_apart(limit), asked_s)
        if reports.is_plain and not exchanged.unrecorded:
            return Turn(Sent(), exchanged.claimed, asked_s)
        try:
            sent = self._control.run(
                reports.explain(self._database.store, self.id, exchanged.unrecorded)
            )
        except DatabaseUnavailable as error:
            self.log.warning(
                "the reports of %d attempts wait: %s",
                len(reports),
                error,
                extra=_about(error) | {"count": len(reports)},
            )
            left = Reports(
                returned=exchanged.unrecorded, failed=reports.failed, refused=reports.refused
            )
            sent = Sent(again=left)
        except Exception:
            self.log.exception(
                "a group of %d reports was refused; sending one by one",
                len(reports),
                extra={"count": len(reports)},
            )
            sent = self._send_singly(reports)
        return Turn(sent, exchanged.claimed, asked_s)

    def _exchange(self, reports: Reports, limit: int) -> Step[Exchanged]:
        """The turn's step. Most turns have nothing to look after but the exchange itself."""
        store = self._database.store
        if limit <= 0:
            return (yield from reports.exchange(store, NOTHING))
        began_s = time.monotonic()
        self._looked_from_head = self._cursor.is_at_head(began_s)
        if (probed := self._breakers.to_probe()) is not None:
            return (yield from self._probe(reports, probed))
        is_promoting = began_s >= self._next_promote_s
        served = self._served
        has_many = not self._caps and (served is None or len(served) > FEW_QUEUES)
        is_looking = has_many and (not self._has_backlog or began_s >= self._next_queues_s)
        is_scheduling = self._scheduler.is_due
        if is_scheduling:
            yield from self._scheduler.look()
        if is_promoting:
            yield from self._dependents.sweep()
            yield from bury_late(store.portable)
            moved = yield from store.promote(PROMOTE_LIMIT)
            if moved < PROMOTE_LIMIT:
                self._next_promote_s = time.monotonic() + PROMOTE_INTERVAL_S
        if is_looking:
            ready = yield from store.ready_queues()
            self._queues = [queue for queue in ready if served is None or queue in served]
            self._next_queues_s = time.monotonic() + HIDDEN_S
        # In a random order, so that none is always served first; no more than are needed when each
        # has a job.
        asked = len(self._queues)
        if not self._fell_short:
            asked = min(asked, max(limit, FEW_QUEUES))
        claimable = self._breakers.claimable()
        limited: list[ClaimedJob] = []
        if self._limited.is_served:
            # Half of the room: neither kind of job is to keep the other from its turn.
            half = limit // 2 + random.randint(0, limit % 2)  # noqa: S311
            limited = yield from self._claim_limited(half, claimable)
        limited += yield from self._claim_capped(limit - len(limited), claimable, limited)
        queues = random.sample(self._queues, asked)
        since = self._cursor.since(began_s)
        # Where a look from the head is dear, so is one along the priorities.
        is_for_lower = (
            self._has_backlog and self._looked_from_head and random.random() < LOWER_SHARE  # noqa: S311
        )
        if is_for_lower:
            levels = yield from store.ready_priorities(queues)
            since = begin_lower(levels, random.random())  # noqa: S311
            is_for_lower = bool(since)
        claim = Claim(
            worker=self.id,
            queues=queues,
            tasks=claimable,
            limit=limit - len(limited),
            lease_s=self.options.lease_s,
            since=since,
        )
        ended = [lease.job_id for lease in (*reports.returned, *reports.committed)]
        is_releasing = bool(ended) and self._dependents.has_any
        exchanged = yield from reports.exchange(
            store,
            claim,
            is_alone=not (
                is_scheduling
                or is_promoting
                or is_looking
                or is_releasing
                or is_for_lower
                or self._caps
                or self._limited.is_served
            ),
        )
        if is_releasing and (yield from self._dependents.release(ended)):
            self._next_promote_s = 0.0
        self._fell_short = len(exchanged.claimed) < claim.limit and asked < len(self._queues)
        if not is_for_lower:
            self._cursor.advance(exchanged.claimed, began_s, time.monotonic())
        exchanged.claimed.extend(limited)
        return exchanged

    def _room_in(self, queue: str, in_hand: Mapping[str, int] | None = None) -> int:
        """How many more jobs of the queue this worker may have."""
        if queue not in self._caps:
            return LARGEST_ROOM
        in_hand = self._work.in_hand_by_queue() if in_hand is None else in_hand
        return self._caps[queue] - in_hand.get(queue, 0)

    def _claim_limited(self, limit: int, tasks: Sequence[str]) -> Step[list[ClaimedJob]]:
        if not self._caps:
            queues = None if self._served is None else list(self._served)
            return (yield from self._limited.claim(limit, tasks, queues))
        in_hand = self._work.in_hand_by_queue()
        rooms = {queue: self._room_in(queue, in_hand) for queue in self._caps}
        with_room = [queue for queue, room in rooms.items() if room > 0]
        if not with_room:
            return []
        # All of them may be of the queue with the least room.
        least = min(limit, *(rooms[queue] for queue in with_room))
        return (yield from self._limited.claim(least, tasks, with_room))

    def _claim_capped(
        self, limit: int, tasks: Sequence[str], before: Sequence[ClaimedJob]
    ) -> Step[list[ClaimedJob]]:
        """A claim for each queue that has a bound of its own; `before` was claimed just now."""
        claimed: list[ClaimedJob] = []
        if not self._caps:
            return claimed
        in_hand = self._work.in_hand_by_queue() + Counter(one.queue for one in before)
        for queue in random.sample(list(self._caps), len(self._caps)):
            room = min(self._room_in(queue, in_hand), limit - len(claimed))
            if room > 0:
                claimed += yield from self._database.store.claim(
                    worker=self.id,
                    queues=[queue],
                    tasks=tasks,
                    limit=room,
                    lease_s=self.options.lease_s,
                )
        return claimed

    def _probe(self, reports: Reports, task: str) -> Step[Exchanged]:
        """Claim one job of a paused task, to see whether it works again."""
        store = self._database.store
        ready = yield from store.ready_queues()
        served = self._served
        claim = Claim(
            worker=self.id,
            queues=[
                queue
                for queue in ready
                if (served is None or queue in served) and self._room_in(queue) > 0
            ],
            tasks=self._breakers.stored_names(task),
            limit=1,
            lease_s=self.options.lease_s,
        )
        exchanged = yield from reports.exchange(store, claim, is_alone=False)
        if not exchanged.claimed and self._limited.is_served:
            exchanged.claimed.extend((yield from self._claim_limited(1, claim.tasks)))
        self._breakers.probed(task, exchanged.claimed)
        return exchanged

    def _claim_apart(self, limit: int) -> list[ClaimedJob]:
        """What the turn's step looks after, each by itself, and row by row where one is bad."""
        if limit <= 0:
            return []
        store, claimable = self._database.store, self._breakers.claimable()
        self._apart.alone(self._scheduler.look(), "schedules", None)
        self._apart.alone(self._dependents.sweep(), "jobs that wait for others", 0)
        self._apart.alone(bury_late(store.portable), "deadlines", [])
        self._apart.promote(PROMOTE_LIMIT)
        self._next_promote_s = time.monotonic() + PROMOTE_INTERVAL_S
        claimed: list[ClaimedJob] = []
        if self._limited.is_served:
            limited = self._claim_limited(limit, claimable)
            claimed += self._apart.alone(limited, "jobs under limits", [])
        ready = self._control.run(store.ready_queues())
        for queue in random.sample(ready, len(ready)):
            if self._served is None or queue in self._served:
                asked = Claim(
                    worker=self.id,
                    queues=[queue],
                    tasks=claimable,
                    limit=min(self._room_in(queue), limit - len(claimed)),
                    lease_s=self.options.lease_s,
                )
                claimed += self._apart.claim(asked)
        return claimed

    def _send_singly(self, reports: Reports) -> Sent:
        again = Reports()
        refused: list[RefusedReport] = []
        store = self._database.store
        for report in reports.singly():
            try:
                exchanged = self._control.run(report.exchange(store, NOTHING))
                sent = self._control.run(report.explain(store, self.id, exchanged.unrecorded))
            except DatabaseUnavailable:
                again.extend(report)
            except Exception:
                (lease,) = report.leases
                self.log.exception(
                    "report given up; the job is recovered when its lease expires",
                    extra=lease._asdict(),
                )
            else:
                again.extend(sent.again)
                refused += sent.refused
        return Sent(again, tuple(refused))

    def _note(self, sent: Sent) -> None:
        if len(sent.again):
            assert self._loop is not None
            self._loop.call_later(BUSY_PAUSE_S, self._report_again, sent.again)
        for report in sent.refused:
            tell(self._middleware, partial(_tell_refused, report))
            self.log.warning(
                "job %d: the attempt with token %d was refused (%s, %s); it changed nothing",
                report.lease.job_id,
                report.lease.token,
                report.stage.value,
                report.reason,
                extra={
                    **report.lease._asdict(),
                    "stage": report.stage.value,
                    "reason": report.reason,
                },
            )

    def _report_again(self, reports: Reports) -> None:
        self._work.report(reports)
        self._wake.set()

    def _start_waiting(self) -> None:
        for attempt in self._work.start():
            self._start(attempt, Relay(self._work.follow))

    def _start(self, attempt: Unit, relay: Relay) -> None:
        if not attempt.is_async:
            self._handler_threads.submit(attempt)
            return
        assert self._loop is not None
        running: Coroutine[Any, Any, Report | Reports] = attempt.run(relay)
        task = self._loop.create_task(running, name=f"jobq {attempt.name}")
        self._work.is_run_by(attempt, task)
        task.add_done_callback(partial(self._on_ended, attempt, relay))

    def _on_ended(self, attempt: Unit, relay: Relay, task: asyncio.Task[Report | Reports]) -> None:
        assert self._loop is not None
        # Cancelled before its first step, it has nothing to say for itself.
        report = attempt.interrupt() if task.cancelled() else task.result()
        for lease in attempt.leases:
            self._heartbeat.remove(lease)
        self._breakers.note(attempt.task.name, report)
        following = self._work.ended(attempt, report)
        if left_over := relay.left_over(following.lease if following else None):
            closing = self._loop.create_task(left_over.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        if following is not None:
            self._start(following, relay)
        if self._is_idle or self._is_turn_due():
            self._wake.set()

    def _run_in_thread(self, attempt: Unit, relay: Relay) -> Unit | None:
        report = attempt.run_in_thread(relay)
        for lease in attempt.leases:
            self._heartbeat.remove(lease)
        self._breakers.note(attempt.task.name, report)
        following = self._work.ended(attempt, report, in_thread=True)
        if left_over := relay.left_over(following.lease if following else None):
            left_over.close()
        if following is None or self._is_idle or self._is_turn_due():
            self._rouse()
        return following

    # -- leases

    def _is_stale(self, lease: Lease) -> bool:
        if not self._heartbeat.has_expired(lease):
            return False
        self._heartbeat.remove(lease)
        return True

    def _tell_from_thread(self, learned: Heartbeat) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._tell, learned)

    def _tell(self, learned: Heartbeat) -> None:
        self._work.drop_waiting(learned.lost.__contains__)
        cancelled = self._work.drop_waiting(learned.cancelled.__contains__)
        self._work.report(Reports(committed=cancelled))  # their fate is there: finalize
        for lease in [*learned.lost, *cancelled]:
            self._heartbeat.remove(lease)
        for attempt in self._work.all_running():
            if attempt.lease in learned.lost:
                attempt.log.warning("job %d: its lease was lost", attempt.lease.job_id)
                attempt.lose()
            elif attempt.lease in learned.cancelled and not attempt.fate.is_lease_lost:
                attempt.log.info("job %d was cancelled", attempt.lease.job_id)
                attempt.cancel()
        self._wake.set()

    # -- maintenance

    async def _reconcile_when_due(self) -> None:
        if time.monotonic() < self._next_reconcile_s:
            return
        interval_s = self.options.reconcile_interval_s
        # Drawn apart, so that many workers do not all look at once.
        self._next_reconcile_s = time.monotonic() + interval_s * random.uniform(0.75, 1.25)  # noqa: S311
        recovered: Recovered = await self._on_control(
            lambda: self._apart.reconcile(RECONCILE_LIMIT, self._retry_delay_s)
        )
        if recovered.total == RECONCILE_LIMIT:
            self._next_reconcile_s = 0.0
        if recovered.total:
            tell(self._middleware, lambda each: each.recovered(recovered))
            self.log.warning(
                "recovered expired leases: %d finalized (committed before), %d to be retried, "
                "%d dead, %d ambiguous",
                len(recovered.healed),
                len(recovered.retried),
                len(recovered.dead),
                len(recovered.parked),
                extra=recovered.by_fate,
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
            queues = self.options.names or (yield from store.ready_queues())
            return (yield from store.unknown_tasks(queues=queues, tasks=list(self._tasks)))

        unknown = await self._on_control(lambda: self._control.run(look()))
        for task in set(unknown) - self._warned_of:
            self._warned_of.add(task)
            self.log.warning(
                "jobs wait for task %r, which this worker does not have; it leaves them, with no "
                "attempt spent, to a worker that does",
                task,
                extra={"task": task},
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
        self._handler_threads.close()
        await asyncio.to_thread(self._processes.close)
        self._control_thread.shutdown(wait=True)
        self._control.close()
        await self._database.aclose()
        self._database.close()
        self.log.info("worker %s stopped", self.id)

    async def _give_back_unstarted(self) -> None:
        unstarted = self._work.close()
        await self._try_last(lambda: self._give_back(unstarted), "give back unstarted jobs")

    async def _wait_for_handlers(self) -> None:
        deadline_s = time.monotonic() + self.options.grace_s
        while self._work.running and not self._is_hurried and time.monotonic() < deadline_s:
            self._settle_down()
            await self._try_last(self._hand_in, "report", patience_s=0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(deadline_s - time.monotonic(), 1.0))):
                    await self._wake.wait()

    async def _interrupt_handlers(self) -> None:
        """Cancelled coroutines end now, rolling back; threads cannot be stopped, only outlived."""
        interrupted = self._work.abandon()
        for attempt in interrupted:
            for lease in attempt.leases:
                self._heartbeat.remove(lease)
            self._work.report(as_reports(attempt.interrupt()))
        coroutines = [task for task in interrupted.values() if task is not None]
        if coroutines:
            await asyncio.wait(coroutines, timeout=LAST_WORDS_S)
        if interrupted:
            self.log.warning(
                "%d handlers were interrupted",
                len(interrupted),
                extra={"count": len(interrupted)},
            )

    async def _hand_in(self) -> None:
        if self._work.reports:
            await self._turn(limit=0)

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
                    self.log.warning("could not %s: %s", what, error, extra=_about(error))
                    return
                await asyncio.sleep(0.2)
            except Exception:
                self.log.exception("could not %s", what)
                return
            else:
                return

    async def _on_control(self, action: Callable[[], T]) -> T:
        assert self._loop is not None
        answer = self._loop.run_in_executor(self._control_thread, action)
        answered, _ = await asyncio.wait({answer}, timeout=self.options.patience_s)
        if not answered:
            self.log.warning(
                "no answer from the database for %g s: connecting afresh",
                self.options.patience_s,
                extra={"pause_s": self.options.patience_s},
            )
            await asyncio.to_thread(self._control.abandon)
        return await answer


def _tell_refused(report: RefusedReport, to: Middleware) -> None:
    to.refused(report)


def _about(error: Exception) -> dict[str, object]:
    return {"error_type": type(error).__qualname__, "error_message": str(error)}


def check_tasks(tasks: Mapping[str, Task[..., Any]], database: Database) -> None:
    """Raise InvalidTask unless there are tasks, and the database has what they ask for."""
    if not tasks:
        raise InvalidTask(
            "this app has no tasks: import the modules that register them where the app is made"
        )
    if any(task.is_in_process for task in tasks.values()):
        check_pebble()
    for task in tasks.values():
        kind = task.handler.effect_kind
        if kind is not None and not database.supports(kind):
            raise InvalidTask(
                f"task {task.name!r} asks for a {kind.__module__}.{kind.__qualname__}, which "
                f"the queue's database ({database.url.get_backend_name()}) has not"
            )

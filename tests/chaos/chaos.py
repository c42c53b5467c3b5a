"""One run: workers, enqueuers and cancellers under faults; then quiet, and the checker."""

from __future__ import annotations

import heapq
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg

from jobq import schema
from jobq.database.url import URL_VARIABLE, conninfo, parse_url
from jobq.embedded import EmbeddedPostgres
from jobq.errors import JobqError
from jobq.failure_modes.proxy import Cut
from tests.chaos import report
from tests.chaos.books import EFFECTLESS, make_ledger, read_books
from tests.chaos.checker import Violation, check
from tests.chaos.clock import shifted_environment
from tests.chaos.history import has_history, read_histories
from tests.chaos.processes import Slot
from tests.chaos.report import Report
from tests.chaos.schedule import Fault, Kind, draw_schedule
from tests.chaos.wire import Wire

WORKERS = 4
ENQUEUERS = 2
CLOCK_SHIFT_S = 3600
CONCURRENCY = 8
LEASE_S = 1.0
GRACE_S = 3.0
POLL_S = 0.1
TICK_S = 0.02
START_WITHIN_S = 60.0
DRAIN_WITHIN_S = 90.0
STOP_WITHIN_S = 15.0

# A crash of the server's processes loses nothing that they wrote: fsync is for the machine's.
SETTINGS = {"fsync": "off", "max_connections": "200"}

CUTS = {
    Kind.CUT_BEFORE: Cut.BEFORE_COMMIT,
    Kind.CUT_AT: Cut.AT_COMMIT,
    Kind.CUT_AFTER: Cut.AFTER_COMMIT,
}
TERMINATE = """
SELECT count(pg_terminate_backend(pid)) FROM (
    SELECT pid FROM pg_stat_activity
    WHERE application_name = 'jobq' AND datname = current_database() AND pid <> pg_backend_pid()
    ORDER BY random() LIMIT %s) AS struck
"""
OPEN = """
SELECT (SELECT count(*) FROM jobq.ready) + (SELECT count(*) FROM jobq.scheduled)
     + (SELECT count(*) FROM jobq.leases)
"""


@dataclass(frozen=True, slots=True)
class Result:
    report: Report
    violations: list[Violation]


class Chaos:
    """`database_url`: an empty database of the run's own; without one, a throwaway server."""

    def __init__(
        self,
        *,
        seconds: float,
        seed: int,
        database_url: str | None = None,
        naive: bool = False,
        keep: bool = False,
        tell: Callable[[str], None],
    ) -> None:
        self._seconds = seconds
        self._seed = seed
        self._given_url = database_url
        self._naive = naive
        self._keep = keep
        self._tell = tell
        self._struck: Counter[str] = Counter()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._noted = 0

    def run(self) -> Result:
        self._folder = Path(tempfile.mkdtemp(prefix="jobq-chaos-"))
        schedule = draw_schedule(self._seed, self._seconds)
        lines = [str(fault) for fault in schedule]
        (self._folder / "schedule.txt").write_text("\n".join(lines))
        self._tell(f"seed {self._seed}: {len(schedule)} faults in {self._seconds:g} s")
        for line in lines:
            self._tell(line)
        with ExitStack() as stack:
            self._open_database(stack)
            self._wire = Wire(self._url)
            stack.callback(self._wire.close)
            self._start(stack)
            self._wait_for_processes()
            self._strike(schedule)
            self._calm()
            drained_s = self._drain()
            for worker in self._workers:
                worker.stop(STOP_WITHIN_S)
            return self._judge(drained_s)

    # -- before

    def _open_database(self, stack: ExitStack) -> None:
        self._server: EmbeddedPostgres | None = None
        given = self._given_url
        if given is None:
            self._server = stack.enter_context(EmbeddedPostgres(SETTINGS))
            given = self._server.url()
        url = parse_url(given)
        self._url = url.render_as_string(hide_password=False)
        schema.upgrade(self._url)
        if self._ask("SELECT count(*) FROM jobq.jobs"):
            raise JobqError(f"{url!r} has jobs: a chaos run needs an empty database of its own")
        make_ledger(self._url)

    def _start(self, stack: ExitStack) -> None:
        worker = [
            *(sys.executable, "-m", "jobq", "worker", "tests.chaos.app:app"),
            *("--concurrency", f"{CONCURRENCY}", "--lease", f"{LEASE_S}"),
            *("--grace", f"{GRACE_S}", "--poll", f"{POLL_S}"),
        ]
        client = [sys.executable, "-m", "tests.chaos.clients"]
        # One worker lives an hour ahead of the others, and so do those that take its place.
        shifts = [*[dict[str, str]()] * (WORKERS - 1), shifted_environment(CLOCK_SHIFT_S)]
        self._workers = [
            self._slot(stack, f"worker{number}", worker, shift)
            for number, shift in enumerate(shifts)
        ]
        self._clients = [
            self._slot(stack, f"enqueuer{n}", [*client, "enqueue", f"{self._seed + n}"], {})
            for n in range(ENQUEUERS)
        ]
        self._clients.append(
            self._slot(stack, "canceller", [*client, "cancel", f"{self._seed}"], {})
        )

    def _slot(
        self, stack: ExitStack, name: str, command: list[str], environment: dict[str, str]
    ) -> Slot:
        own = {
            URL_VARIABLE: self._wire.url,
            "JOBQ_CHAOS_FOLDER": str(self._folder),
            "JOBQ_CHAOS_ROLE": name,
            "JOBQ_CHAOS_NAIVE": "1" if self._naive else "",
        }
        slot = Slot(name, command, {**own, **environment}, self._folder)
        stack.callback(slot.stop, 0)
        return slot

    def _wait_for_processes(self) -> None:
        """The schedule's clock starts when everybody is there, however slow the machine."""
        deadline_s = time.monotonic() + START_WITHIN_S
        slots = [*self._workers, *self._clients]
        while missing := [slot.name for slot in slots if not has_history(self._folder, slot.name)]:
            if time.monotonic() > deadline_s:
                logs = "\n".join(slot.log() for slot in slots)
                raise JobqError(f"waited {START_WITHIN_S:g} s for {missing} to start:\n{logs}")
            time.sleep(TICK_S)

    # -- the faults

    def _strike(self, schedule: list[Fault]) -> None:
        started_s = time.monotonic()
        for fault in schedule:
            self._at(started_s + fault.at_s, partial(self._cause, fault))
        while (left_s := started_s + self._seconds - time.monotonic()) > 0:
            self._do_what_is_due()
            self._tend()
            time.sleep(min(TICK_S, left_s))

    def _at(self, when_s: float, action: Callable[[], None]) -> None:
        self._noted += 1
        heapq.heappush(self._agenda, (when_s, self._noted, action))

    def _do_what_is_due(self) -> None:
        while self._agenda and self._agenda[0][0] <= time.monotonic():
            heapq.heappop(self._agenda)[2]()

    def _tend(self) -> None:
        for slot in (*self._workers, *self._clients):
            slot.tend()

    def _cause(self, fault: Fault) -> None:
        worker = self._workers[fault.target % len(self._workers)]
        client = self._clients[fault.target % len(self._clients)]
        match fault.kind:
            case Kind.KILL:
                worker.kill()
            case Kind.STOP:
                worker.terminate()
            case Kind.FREEZE:
                worker.freeze()
                self._at(time.monotonic() + fault.for_s, worker.wake)
            case Kind.TERMINATE:
                self._terminate(fault.target)
                return
            case Kind.CUT_BEFORE | Kind.CUT_AT | Kind.CUT_AFTER:
                self._wire.cut(CUTS[fault.kind])
                return  # counted by the wire, when it happens
            case Kind.CRASH:
                self._crash(fault.for_s)
                return
            case Kind.KILL_CLIENT:
                client.kill()
        self._struck[fault.kind] += 1

    def _terminate(self, sessions: int) -> None:
        try:
            ended = self._ask(TERMINATE, sessions)
        except psycopg.OperationalError:
            return  # the server is away as it is
        self._struck[Kind.TERMINATE] += ended > 0
        self._struck["sessions_terminated"] += ended

    def _crash(self, for_s: float) -> None:
        if self._server is None:
            self._terminate(1_000)  # not ours to stop
            return
        server, self._server = self._server, None
        self._struck[Kind.CRASH] += 1
        server.stop("immediate")

        def start() -> None:
            server.start()
            self._server = server

        self._at(time.monotonic() + for_s, start)

    # -- afterwards

    def _calm(self) -> None:
        """Nothing goes wrong any more: what was to be undone is undone now."""
        self._wire.disarm()
        for _, _, action in sorted(self._agenda):
            action()
        self._agenda.clear()
        for client in self._clients:
            client.stop(STOP_WITHIN_S)
        for worker in self._workers:
            worker.wake()

    def _drain(self) -> float | None:
        """Wait until no job is open; the checker says which ones are, if that never comes."""
        calm_s = time.monotonic()
        while time.monotonic() - calm_s < DRAIN_WITHIN_S:
            if not self._ask(OPEN):
                return time.monotonic() - calm_s
            for worker in self._workers:
                worker.tend()
            time.sleep(TICK_S)
        return None

    def _judge(self, drained_s: float | None) -> Result:
        history, books = read_histories(self._folder), read_books(self._url)
        violations = check(history, books, effectless=EFFECTLESS)
        is_kept = self._keep or bool(violations)
        if is_kept:
            told = "\n".join(str(violation) for violation in violations)
            (self._folder / "violations.txt").write_text(told)
        else:
            shutil.rmtree(self._folder)
        struck = self._struck + Counter(
            {str(kind): self._wire.cuts[cut] for kind, cut in CUTS.items()}
        )
        struck["clock_shifted_workers"] = self._workers[-1].started
        return Result(
            Report(
                seed=self._seed,
                seconds=self._seconds,
                jobs=len(books.jobs),
                attempts=sum(one.op == "start" for one in history),
                fates=report.fates(books),
                effects=len(books.ledger),
                duplicates=books.duplicates,
                faults=dict(sorted((str(kind), count) for kind, count in struck.items())),
                unknown=report.unknown(history),
                refused=report.refused(history, books),
                healed=sum(row.outcome == "healed" for row in books.attempts),
                worker_exits=sum(worker.ended_by_itself for worker in self._workers),
                drained_s=drained_s,
                violations=report.by_invariant(violations),
                folder=str(self._folder) if is_kept else None,
            ),
            violations,
        )

    def _ask(self, question: str, *parameters: object) -> int:
        with psycopg.connect(conninfo(parse_url(self._url)), autocommit=True) as connection:
            row = connection.execute(question, parameters).fetchone()
        assert row is not None
        return int(row[0])

"""The demo's course: orders, workers, faults, books."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from jobq import schema
from jobq.database.url import URL_VARIABLE, parse_url
from jobq.demo import books
from jobq.demo.books import Order, Report
from jobq.demo.processes import LEASE_S, WorkerProcess
from jobq.demo.shop import NAIVE_VARIABLE, SCHEMA, WORK_VARIABLE, charge
from jobq.demo.watch import Watch
from jobq.embedded import EmbeddedPostgres
from jobq.errors import JobqError

T = TypeVar("T")

ACCOUNTS = 500
WORKERS = 3
CONCURRENCY = {"postgresql": 8, "sqlite": 4}
# The faults need about this long; a small demo's charges take longer, a large one's are quick.
WORK_FOR_S = 9.0
GIVE_UP_S = 300.0
TICK_S = 0.05
IN_FLIGHT_S = 0.2
"""A statement that was under way when its sender was frozen has ended by then."""


class DemoFailed(JobqError):
    """The demo could not be carried through: its faults, not its books, went wrong."""


@dataclass
class Progress:
    """What the display shows."""

    jobs: int
    charged: int = 0
    workers: list[WorkerProcess] = field(default_factory=list)
    events: list[str] = field(default_factory=list)


class Demo:
    """One run. `show` is called whenever there is something new to see."""

    def __init__(
        self,
        *,
        database_url: str | None,
        jobs: int,
        seed: int,
        naive: bool,
        show: Callable[[Progress], None],
    ) -> None:
        self._given_url = database_url
        self._seed = seed
        self._naive = naive
        self._show = show
        self._started_s = time.monotonic()
        self.progress = Progress(jobs)

    def run(self) -> Report:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jobq-demo-")))
            server, url = self._open_database(stack)
            self._url = url
            # The shop's app, here and in its workers, finds its database as any app does.
            os.environ[URL_VARIABLE] = url.render_as_string(hide_password=False)
            self._watch = Watch(url)
            self._log = stack.enter_context((folder / "workers.log").open("wb"))
            orders = self._order()
            with self._workers():
                self._cause_faults(server)
                self._wait_for(
                    lambda: self._watch.charged() >= len(orders), "every job to be charged"
                )
                self._wait_for(self._watch.is_drained, "every job to be finalized")
            return self._ask(lambda: self._audit(orders))

    def _audit(self, orders: dict[int, Order]) -> Report:
        with self._watch.engine.connect() as connection:
            return books.audit(connection, orders, self._watch.tables)

    # -- before

    def _open_database(self, stack: ExitStack) -> tuple[EmbeddedPostgres | None, URL]:
        if self._given_url is not None:
            url = parse_url(self._given_url)
            self._tell(f"using {url!r}")
            return None, url
        server = stack.enter_context(EmbeddedPostgres())
        self._tell("started a throwaway PostgreSQL")
        return server, parse_url(server.url())

    def _order(self) -> dict[int, Order]:
        schema.upgrade(self._url, schema=SCHEMA)
        with self._watch.engine.begin() as connection:
            books.open_accounts(connection, ACCOUNTS)
        orders = books.make_orders(self.progress.jobs, ACCOUNTS, self._seed)
        try:
            handles = charge.app.enqueue_many(
                charge.request(account_id=order.account_id, cents=order.cents) for order in orders
            )
        finally:
            charge.app.close()
        self._tell(f"enqueued {len(orders):,} charges against {ACCOUNTS} accounts")
        return {handle.id: order for handle, order in zip(handles, orders, strict=True)}

    @contextmanager
    def _workers(self) -> Iterator[None]:
        try:
            for number in range(1, WORKERS + 1):
                self._start_worker(f"worker {number}")
            self._tell(f"started {WORKERS} worker processes")
            yield
        finally:
            for worker in self.progress.workers:
                worker.stop()

    def _start_worker(self, name: str) -> None:
        slots = WORKERS * CONCURRENCY[self._watch.backend]
        work_s = min(1.5, max(0.002, WORK_FOR_S * slots / self.progress.jobs))
        environment = {
            NAIVE_VARIABLE: "1" if self._naive else "",
            WORK_VARIABLE: str(work_s),
        }
        self.progress.workers.append(
            WorkerProcess(name, CONCURRENCY[self._watch.backend], environment, self._log)
        )

    # -- the faults

    def _cause_faults(self, server: EmbeddedPostgres | None) -> None:
        self._wait_for_charges(0.1)
        self._kill_one()
        self._wait_for_charges(0.2)
        self._freeze_one()
        self._restart_database(server)

    def _kill_one(self) -> None:
        """SIGKILL at the worst moment: the effect is committed, the job is not yet done."""
        victim = self.progress.workers[0]
        self._freeze_when(
            victim, lambda: self._watch.unfinished_of(victim) > 0, "a commit not yet finalized"
        )
        committed = self._ask(lambda: self._watch.unfinished_of(victim))
        victim.kill()
        self._tell(
            f"SIGKILL to {victim.name}, {committed} of its charges committed and not yet done"
        )
        self._start_worker("worker 4")
        self._tell("started worker 4 in its place")

    def _freeze_one(self) -> None:
        """SIGSTOP past the lease, as a long pause of the machine would, then go on."""
        victim = self.progress.workers[1]
        self._freeze_when(victim, lambda: self._watch.leases_of(victim) > 0, "jobs in hand")
        in_hand = self._ask(lambda: self._watch.leases_of(victim))
        self._tell(f"SIGSTOP to {victim.name} with {in_hand} jobs in hand, for longer than a lease")
        self._wait_for(lambda: self._watch.leases_of(victim) == 0, "its leases to be recovered")
        # Let the others run the recovered jobs, so that the sleeper's effects would be second.
        self._wait_until_s(time.monotonic() + LEASE_S / 2)
        victim.wake()
        self._tell(f"SIGCONT to {victim.name}: it takes up its {in_hand} jobs where it left them")

    def _freeze_when(self, victim: WorkerProcess, wanted: Callable[[], bool], what: str) -> None:
        """Freeze the worker in a moment that has what is wanted, and wake it from others."""

        def caught() -> bool:
            victim.freeze()
            # With every job charged there is no such moment left to wait for.
            is_too_late = self._watch.charged() >= self.progress.jobs
            if self._watch.is_writable() and (wanted() or is_too_late):
                # What it had sent may still be under way, and end what was wanted.
                self._wait_until_s(time.monotonic() + IN_FLIGHT_S)
                if wanted() or is_too_late:
                    return True
            victim.wake()
            return False

        self._wait_for(caught, f"{victim.name} to have {what}")

    def _restart_database(self, server: EmbeddedPostgres | None) -> None:
        if server is not None:
            server.restart("immediate")
            self._tell("restarted the database, at once and without a shutdown (immediate)")
        elif self._watch.backend == "postgresql":
            with self._watch.engine.begin() as connection:
                ended = connection.execute(
                    text(
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                        "WHERE application_name = 'jobq' AND datname = current_database() "
                        "AND pid <> pg_backend_pid()"
                    )
                ).scalar_one()
            self._tell(f"ended {ended} database sessions (the server is not ours to restart)")
        else:
            self._tell("no database restart: SQLite has no server")

    # -- waiting

    def _wait_for_charges(self, share: float) -> None:
        wanted = share * self.progress.jobs
        self._wait_for(lambda: self._watch.charged() >= wanted, f"{share:.0%} of the charges")

    def _wait_for(self, is_so: Callable[[], bool], what: str) -> None:
        while not self._ask(is_so):
            self._wait_until_s(time.monotonic() + TICK_S)
            for worker in self.progress.workers:
                if worker.has_died:
                    raise DemoFailed(f"{worker.name} ended by itself:\n{self._last_log_lines()}")
            if time.monotonic() - self._started_s > GIVE_UP_S:
                raise DemoFailed(
                    f"waited {GIVE_UP_S:g} s for {what}; {self.progress.charged} of "
                    f"{self.progress.jobs} charged:\n{self._last_log_lines()}"
                )

    def _wait_until_s(self, until_s: float) -> None:
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, TICK_S))
        self.progress.charged = self._ask(self._watch.charged)
        self._show(self.progress)

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask the database again for as long as it is being restarted or locked."""
        while True:
            try:
                return question()
            except DBAPIError as error:
                if time.monotonic() - self._started_s > GIVE_UP_S:
                    raise DemoFailed(f"the database stayed away: {error.orig}") from error
                time.sleep(TICK_S)

    def _tell(self, event: str) -> None:
        self.progress.events.append(f"{time.monotonic() - self._started_s:5.1f} s  {event}")
        self._show(self.progress)

    def _last_log_lines(self) -> str:
        log: IO[bytes] = self._log
        lines = Path(log.name).read_text(errors="replace").splitlines()
        return os.linesep.join(lines[-15:])

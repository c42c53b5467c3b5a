"""Where one scenario is played with one queue: a new database, a folder, and the worker processes.

What counts is what the application can see: its own ledger, when handlers began and ended, and
what the queue says of the job. Every wait has a bound, and says what it waited for.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

from bench.peers.child import Child, Failed, child
from bench.peers.suite import socket_in_query
from jobq.embedded import EmbeddedPostgres
from scoreboard.adapter import DONE, FAILED, LEASE_S, MAX_RUNS, Given
from scoreboard.runs import LEDGER, Plan, Runs
from scoreboard.workers import PACKAGE, Worker

LOOK_EVERY_S = 0.05
STARTS_WITHIN_S = 60.0
SCOREBOARD = "scoreboard"
"""Who tells the log what was done to the workers."""


class NotWithin(Exception):
    """What was waited for did not come in time."""


class Broken(Exception):
    """The scenario could not be played; the message says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the scoreboard."""

    name: str
    """Its module in `scoreboard.queues`."""
    title: str
    environment: str
    """Whose of `bench.peers.environments`."""
    needs_redis: bool = False


@dataclass
class Stage:
    """One queue in a new database, with a hand on its workers."""

    row: Row
    python: str
    server: EmbeddedPostgres
    url: str
    folder: str
    broker: str
    clerk: Child
    about: Mapping[str, Any]
    given: Given
    workers: dict[str, Worker] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.runs = Runs(self.folder, SCOREBOARD)

    # -- doing

    def plan(self, plan: Plan) -> None:
        self.runs.write_plan(plan)

    def tell(self, what: str) -> None:
        self.runs.tell(what)

    def enqueue(self, *jobs: int, told: bool = True) -> None:
        self._ask(ask="enqueue", jobs=jobs)
        if told:
            self.tell(f"enqueued {len(jobs)} jobs" if len(jobs) > 1 else "enqueued the job")

    def start(self, name: str, *, in_place_of: str | None = None) -> None:
        """Start a worker; in a queue where only a worker itself takes up its jobs again, as the one
        whose place it takes."""
        identity = name
        if in_place_of is not None and self.about["recovery"] == "restart":
            identity = self.workers[in_place_of].given.identity
        given = replace(self.given, worker=name, identity=identity)
        self.workers[name] = Worker(self.python, self.row.name, given)
        self.tell(f"started {name}" + ("" if identity == name else f" as {identity}"))

    def freeze(self, *names: str) -> None:
        for name in names:
            self.workers[name].signal(signal.SIGSTOP)
            self.tell(f"froze {name}")
        self.until_frozen(*names)

    def until_frozen(self, *names: str) -> None:
        for name in names:
            self.until(lambda name=name: self.workers[name].is_stopped, f"{name} to be stopped", 10)  # type: ignore[misc]

    def thaw(self, name: str) -> None:
        self.tell(f"woke {name}")
        self.workers[name].signal(signal.SIGCONT)

    def let_go(self, job: int, run: int) -> None:
        self.tell(f"let run {run} go")
        self.runs.gate(job, run).touch()

    def restart_database(self) -> None:
        self.tell("PostgreSQL crashes")
        self.server.restart("immediate")
        self.tell("PostgreSQL is back")

    # -- seeing

    def seen(self, what: str, *, job: int = 1, run: int | None = None) -> list[dict[str, Any]]:
        """What the handlers told of the job's runs, or of one."""
        return [
            line
            for line in self.runs.read_log()
            if line["what"].startswith(what)
            and line["job"] == job
            and (run is None or line["run"] == run)
        ]

    def seen_of(self, worker: str, what: str) -> bool:
        """Whether any run of this worker's told so."""
        return any(
            line["worker"] == worker and line["what"] == what for line in self.runs.read_log()
        )

    def began(self, job: int = 1) -> int:
        """How many runs of the job began."""
        return len(self.seen("began", job=job))

    def has_ended(self, run: int, *, job: int = 1) -> bool:
        return any(self.seen(end, job=job, run=run) for end in ("returned", "raised"))

    def words(self, *jobs: int) -> list[str]:
        """What the queue calls the jobs' states."""
        states: list[str] = self._ask(ask="states", jobs=jobs)["states"]
        return states

    def state(self, word: str) -> str:
        """What a queue's word means."""
        meaning: str = self.about["states"].get(word, word)
        return meaning

    def has_fate(self, job: int = 1) -> bool:
        """Whether the queue says that the job is done, or failed for good."""
        return self.state(self.words(job)[0]) in (DONE, FAILED)

    def ledger(self) -> Counter[int]:
        """How often each job's effect is in the application's table."""
        with psycopg.connect(self.url) as connection:
            return Counter(job for (job,) in connection.execute("SELECT job FROM ledger"))

    # -- waiting

    def until(self, is_so: Callable[[], bool], what: str, within_s: float) -> float:
        """Wait for it; return how long it took. Raises NotWithin."""
        asked_s = time.monotonic()
        while not is_so():
            if time.monotonic() - asked_s > within_s:
                raise NotWithin(f"waited {within_s:g} s for {what}")
            time.sleep(LOOK_EVERY_S)
        return time.monotonic() - asked_s

    def until_seen(
        self, what: str, within_s: float = STARTS_WITHIN_S, *, job: int = 1, run: int | None = None
    ) -> None:
        told = f"run {run or 'any'} of job {job}: {what}"
        self.until(lambda: bool(self.seen(what, job=job, run=run)), told, within_s)

    def until_dead(self, name: str) -> None:
        self.until(lambda: self.workers[name].exit_code is not None, f"{name} to be dead", 20)

    def watch(self, for_s: float) -> None:
        """Leave everybody alone, to see what comes late."""
        time.sleep(for_s)

    def timeline(self) -> list[str]:
        """What happened to job 1 and to the workers, in order."""
        lines = []
        for line in self.runs.read_log():
            if line["job"] not in (None, 1):
                continue
            who = "" if line["worker"] == SCOREBOARD else f"{line['worker']}, run {line['run']}: "
            lines.append(f"{line['at'] - self.began_s:.1f} s: {who}{line['what']}")
        return lines

    def outputs(self) -> dict[str, str]:
        return {name: worker.last_words() for name, worker in self.workers.items()}

    def _ask(self, **question: Any) -> dict[str, Any]:
        self.clerk.tell(json.dumps(question))
        said = self.clerk.hear()
        if "error" in said:
            raise Broken(f"{question['ask']}: {said['error']}")
        return said


@contextmanager
def stage(
    row: Row,
    python: str,
    server: EmbeddedPostgres,
    *,
    max_runs: int = MAX_RUNS,
    lease_s: float = LEASE_S,
) -> Iterator[Stage]:
    """A stage for one scenario, gone when it is over. Raises Broken."""
    name = f"scoreboard_{uuid.uuid4().hex}"
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="scoreboard-"))
        broker = stack.enter_context(_redis(folder)) if row.needs_redis else ""
        _as_superuser(server, f"CREATE DATABASE {name}")
        stack.callback(_as_superuser, server, f"DROP DATABASE {name} WITH (FORCE)")
        url = socket_in_query(server.url(name))
        with psycopg.connect(url) as connection:
            connection.execute(LEDGER)
        given = Given(url, folder, "clerk", "clerk", broker, max_runs, lease_s)
        clerk = stack.enter_context(
            child(python, row.name, "clerk", package=PACKAGE, **asdict(given))
        )
        try:
            about = clerk.hear()
        except Failed as failed:
            raise Broken(f"it could not be set up: {failed}") from failed
        played = Stage(row, python, server, url, folder, broker, clerk, about, given)
        try:
            yield played
        finally:
            for worker in played.workers.values():
                worker.end()


def _as_superuser(server: EmbeddedPostgres, statement: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(statement.encode())


@contextmanager
def _redis(folder: str) -> Iterator[str]:
    """A Redis of the stage's own, on a Unix socket. Raises Broken."""
    program = shutil.which("redis-server")
    if program is None:
        raise Broken("redis-server is not installed")
    socket = Path(folder, "redis.sock")
    settings = ["--port", "0", "--unixsocket", str(socket), "--dir", folder, "--save", ""]
    with Path(folder, "redis.log").open("wb") as log:
        process = subprocess.Popen([program, *settings], stdout=log, stderr=log)
    try:
        deadline_s = time.monotonic() + STARTS_WITHIN_S
        while not socket.exists():
            if time.monotonic() > deadline_s or process.poll() is not None:
                raise Broken(f"redis-server did not start: {Path(folder, 'redis.log').read_text()}")
            time.sleep(LOOK_EVERY_S)
        yield f"redis+socket://{socket}"
    finally:
        process.kill()
        process.wait()

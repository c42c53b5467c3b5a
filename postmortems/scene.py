"""What a simulated incident is made of: a server, processes, a clock that starts at T+00:00."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import click
import psycopg
from sqlalchemy.engine import URL, make_url

from jobq import schema
from jobq.database.url import URL_VARIABLE, conninfo
from jobq.embedded import EmbeddedPostgres
from jobq.errors import JobqError
from postmortems.shop import TABLES

ROOT = Path(__file__).parents[1]
ROLE = "shop"
WAIT_S = 120.0
POLL_S = 0.02
GRACE_S = 3.0

Session = psycopg.Connection[Any]


class SceneFailed(JobqError):
    """The incident did not take the course that its report tells of."""


@dataclass(frozen=True, slots=True)
class Event:
    key: str
    at_s: float
    text: str


class Chronicle:
    """What happened, and when: the report's timeline. May be told by several threads."""

    def __init__(self) -> None:
        self.began_at = time.time()
        self.events: list[Event] = []
        self._lock = Lock()

    def now_s(self) -> float:
        return time.time() - self.began_at

    def tell(self, key: str, text: str) -> float:
        """Note it, print it and return its time in seconds."""
        with self._lock:
            event = Event(key, round(self.now_s(), 3), text)
            self.events.append(event)
        click.echo(f"  {clock(event.at_s)}  {text}")
        return event.at_s

    def at_s(self, key: str) -> float:
        return next(event.at_s for event in self.events if event.key == key)


def clock(at_s: float) -> str:
    """As in T+01:07."""
    minutes, seconds = divmod(int(at_s), 60)
    return f"T+{minutes:02}:{seconds:02}"


class Process:
    """One of the company's processes, with its log in a file of JSON lines."""

    def __init__(self, name: str, command: Sequence[str], url: URL, folder: Path, **env: str):
        self.name = name
        self._log_path = folder / f"{name.replace(' ', '-')}.log"
        self._is_meant_to_end = False
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own
                [sys.executable, "-m", *command],
                env={
                    **os.environ,
                    URL_VARIABLE: url.render_as_string(hide_password=False),
                    **env,
                },
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C stops the run, which stops its processes itself
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> Iterator[dict[str, Any]]:
        """What it wrote so far, line by line."""
        with self._log_path.open() as log:
            for line in log:
                if line.startswith("{") and line.endswith("\n"):
                    yield json.loads(line)

    def check(self) -> None:
        """Raise SceneFailed if it ended by itself."""
        if not self._is_meant_to_end and self._process.poll() is not None:
            last = "".join(self._log_path.read_text(errors="replace").splitlines(True)[-15:])
            raise SceneFailed(f"{self.name} ended by itself:\n{last}")

    def freeze(self) -> None:
        """SIGSTOP, and wait until the kernel says that it stands still."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._is_meant_to_end = True
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what does not drain."""
        self._is_meant_to_end = True
        if self._process.poll() is None:
            self.wake()
            self._process.terminate()
            try:
                self._process.wait(GRACE_S + 5)
            except subprocess.TimeoutExpired:
                self.kill()


def jobq_worker(app: str, *, concurrency: int, lease_s: float, prefetch: int = 0) -> list[str]:
    """`jobq worker`, as anyone would run it."""
    return [
        *("jobq", "worker", app, "--concurrency", f"{concurrency}", "--lease", f"{lease_s}"),
        *("--prefetch", f"{prefetch}", "--grace", f"{GRACE_S}", "--poll", "0.2"),
        *("--log-format", "json", "--metrics-port", "0"),
    ]


class Scene:
    """A company in a database of its own, its processes, and somebody who looks on.

    `watch` is a superuser's connection: those are let in when nobody else is.
    """

    def __init__(self, stack: ExitStack, server: EmbeddedPostgres, folder: Path) -> None:
        self._stack = stack
        self._server = make_url(server.url())
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {ROLE} LOGIN".encode())
            admin.execute(f"CREATE DATABASE {ROLE} OWNER {ROLE}".encode())
        self.url = self._server.set(username=ROLE, database=ROLE)
        schema.upgrade(self.url)
        with psycopg.connect(conninfo(self.url)) as owner:
            owner.execute(TABLES.encode())
        self.watch = stack.enter_context(
            psycopg.connect(conninfo(self._server.set(database=ROLE)), autocommit=True)
        )
        self.folder = folder
        self.processes: list[Process] = []
        self.chronicle = Chronicle()

    def begin(self) -> None:
        """It is T+00:00."""
        self.chronicle = Chronicle()

    def connect(self) -> Session:
        """One of the company's connections. As a context manager it commits and closes."""
        return psycopg.connect(conninfo(self.url))

    def session(self) -> Session:
        """One in autocommit mode, which is closed when the scene is over."""
        return self._stack.enter_context(psycopg.connect(conninfo(self.url), autocommit=True))

    def ask(self, query: str, *parameters: object) -> Any:
        """Return the first value of the first row."""
        row = self.watch.execute(query.encode(), parameters).fetchone()
        assert row is not None
        return row[0]

    def start(self, name: str, command: Sequence[str], **env: str) -> Process:
        process = Process(name, command, self.url, self.folder, **env)
        self._stack.callback(process.stop)
        self.processes.append(process)
        return process

    def wait_for(self, is_so: Callable[[], bool], what: str) -> None:
        """Ask until the answer is yes. Raises SceneFailed after `WAIT_S`."""
        deadline_s = time.monotonic() + WAIT_S
        while not is_so():
            for process in self.processes:
                process.check()
            if time.monotonic() > deadline_s:
                raise SceneFailed(f"waited {WAIT_S:g} s for {what}")
            time.sleep(POLL_S)

    def wait_until(self, at_s: float) -> None:
        """Return when the clock of the scene says so."""
        self.wait_for(lambda: self.chronicle.now_s() >= at_s, clock(at_s))

    def at_s(self, moment: float) -> float:
        """Of a moment as the database has it, in seconds since the epoch."""
        return round(moment - self.chronicle.began_at, 3)


@contextmanager
def scene_in(folder: Path, **settings: str) -> Iterator[Scene]:
    """A scene on a throwaway server with these lines in its postgresql.conf."""
    with EmbeddedPostgres(settings) as server, ExitStack() as stack:
        yield Scene(stack, server, folder)

"""What the benchmarks share: places to measure in, a drain by the real worker, ratios, a table."""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Unpack

import psycopg
from sqlalchemy.engine import URL

from jobq import JobQueue, JobRequest, State, schema
from jobq.database.url import conninfo, parse_url
from jobq.embedded import EmbeddedPostgres
from jobq.worker import WorkerSettings

Measure = Callable[[str], float]
"""Does the work in the new, migrated database of this URL; returns how much per second."""

DRAIN_TIMEOUT_S = 300.0
SETTINGS = """
SELECT name, current_setting(name) FROM pg_settings
WHERE name IN ('server_version', 'fsync', 'synchronous_commit', 'full_page_writes', 'wal_level',
               'shared_buffers', 'max_wal_size', 'checkpoint_timeout', 'autovacuum', 'jit')
ORDER BY name
"""


class Unavailable(Exception):
    """This benchmark cannot be had here; the message says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to measure: a server, or a folder."""

    describe: str
    database: Callable[[], AbstractContextManager[str]]
    """A new, migrated database for one measurement, so that each begins alike."""
    settings: Mapping[str, str]
    """Of the server, where they matter to a benchmark."""


@contextmanager
def postgres_place(url: str | None) -> Iterator[Place]:
    """The server of `url`, or an embedded one with PostgreSQL's own settings."""
    if url is None:
        with EmbeddedPostgres() as server, postgres_place(server.url()) as place:
            yield place
        return
    address = parse_url(url)
    admin = psycopg.connect(conninfo(address), autocommit=True)

    @contextmanager
    def database() -> Iterator[str]:
        name = f"jobq_bench_{uuid.uuid4().hex}"
        admin.execute(f"CREATE DATABASE {name}".encode())
        try:
            own_url = address.set(drivername="postgresql", database=name).render_as_string(
                hide_password=False
            )
            schema.upgrade(own_url)
            yield own_url
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    with admin:
        settings: dict[str, str] = dict(admin.execute(SETTINGS).fetchall())
        version = settings["server_version"].split()[0]  # Debian adds its own name
        durability = ", ".join(
            f"{name} {settings[name]}" for name in ("fsync", "synchronous_commit")
        )
        yield Place(f"PostgreSQL {version}, {durability}", database, settings)


@contextmanager
def sqlite_place() -> Iterator[Place]:
    """The temporary folder. It must be on a disk: in memory, synchronous=FULL costs nothing."""

    @contextmanager
    def database() -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="jobq-bench-") as folder:
            url = f"sqlite:///{Path(folder, 'bench.db')}"
            schema.upgrade(url)
            yield url

    settings = {"journal_mode": "wal", "synchronous": "full"}
    yield Place(f"SQLite {sqlite3.sqlite_version}, synchronous FULL", database, settings)


class Progress:
    """Counts the work done. The time begins when the first tenth of it is: so neither side pays
    for opening connections and preparing statements."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.all_ticked = threading.Event()
        self._count = count(1)  # its next() is atomic
        self._began_s = 0.0

    def tick(self) -> None:
        done = next(self._count)
        if done == self.total // 10:
            self._began_s = time.perf_counter()
        if done == self.total:
            self.all_ticked.set()

    def wait(self) -> None:
        """Wait for the last tick. Raises TimeoutError."""
        if not self.all_ticked.wait(DRAIN_TIMEOUT_S):
            raise TimeoutError(f"not every job was run within {DRAIN_TIMEOUT_S:g} s")

    def rate(self, ended_s: float) -> float:
        return (self.total - self.total // 10) / (ended_s - self._began_s)


def settle(url: str | URL) -> None:
    """Do now what the server would do at some moment of the measurement: vacuum, and write the
    pages that loading the tables made dirty."""
    with psycopg.connect(conninfo(parse_url(url)), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def fill(app: JobQueue, requests: Sequence[JobRequest]) -> None:
    """Enqueue, and let the server settle."""
    app.enqueue_many(requests)
    if app.url.get_backend_name() == "postgresql":
        settle(app.url)


def drain(
    app: JobQueue,
    requests: Sequence[JobRequest],
    progress: Progress,
    **settings: Unpack[WorkerSettings],
) -> float:
    """Return the jobs per second of a real worker, whose handlers tick, until all are DONE."""
    fill(app, requests)
    with app.worker(**settings):
        progress.wait()
        ended_s = _wait_until_done(app, progress.total)
    app.close()
    return progress.rate(ended_s)


def _wait_until_done(app: JobQueue, total: int) -> float:
    """Return when the database was asked and said: a commit record for every job, no leases."""
    deadline_s = time.perf_counter() + DRAIN_TIMEOUT_S
    while (asked_s := time.perf_counter()) < deadline_s:
        counts = app.database.run(app.database.store.counts())
        if {state: jobs for state, jobs in counts.items() if jobs} == {State.DONE: total}:
            return asked_s
        time.sleep(0.002)
    raise TimeoutError(f"not every job was done within {DRAIN_TIMEOUT_S:g} s: {counts}")


def alternate(place: Place, measures: Mapping[str, Measure], repeat: int) -> dict[str, list[float]]:
    """Measure each in turn, in a new database each time; return the samples of each."""

    def in_a_new_database(measure: Measure) -> float:
        with place.database() as url:
            return measure(url)

    return in_turn(
        {name: partial(in_a_new_database, one) for name, one in measures.items()}, repeat
    )


def in_turn(measures: Mapping[str, Callable[[], float]], repeat: int) -> dict[str, list[float]]:
    """Take each in turn, every other time backwards; return the samples of each."""
    samples: dict[str, list[float]] = {name: [] for name in measures}
    for repetition in range(repeat):
        print(f"repetition {repetition + 1} of {repeat}", file=sys.stderr)
        for name in list(measures)[:: -1 if repetition % 2 else 1]:
            samples[name].append(measures[name]())
    return samples


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result: jobq's figure, its peer's, and the ratio of the two. What has no
    peer is to keep to a number."""

    name: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None
    ratios: Sequence[float] = ()
    """Those of the repetitions, in the order they ran."""


def compare(
    samples: Mapping[str, Sequence[float]], name: str, peer: str, unit: str = "jobs/s"
) -> Figure:
    """Pair the samples of each repetition: what slows the machine down slows both of a pair."""
    ours, its = samples[name], samples[peer]
    ratios = [one / other for one, other in zip(ours, its, strict=True)]
    return Figure(name, median(ours), unit, peer, median(its), median(ratios), ratios)


def number(value: float) -> str:
    """Return it with three digits at least, and no more decimals than that takes."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as aligned text."""
    lines = [f"{'jobq':70}{'beside':54}ratio (lowest-highest)"]
    for each in figures:
        ours = f"{each.name:48}{number(each.value):>9} {each.unit}"
        its = "" if each.peer_value is None else f"{each.peer:42}{number(each.peer_value):>9}"
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        spread = f" ({min(each.ratios):.2f}-{max(each.ratios):.2f})" if each.ratios else ""
        lines.append(f"{ours:70}{its:54}{ratio}{spread}".rstrip())
    return "\n".join(lines)

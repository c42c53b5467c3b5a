"""Several worker processes under one: signals handed on, crashed ones started again."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence

from jobq.protocol.retry import Retry

logger = logging.getLogger("jobq.supervisor")

RESTART = Retry(base_s=0.5, cap_s=30.0)
STOPPED = (0, -signal.SIGTERM, -signal.SIGINT)
"""Exit codes of a process that was told to stop; one that was still starting just ends."""
STEADY_S = 30.0
"""A process that ran for so long starts its count of crashes anew."""


def supervise(
    processes: int, options_of: Callable[[int], Sequence[str]] = lambda number: ()
) -> int:
    """Run this very command `processes` times, one process each, until stopped.

    The first SIGTERM or SIGINT is handed on and lets them drain, the second makes them stop at
    once. `options_of`: what a process has besides, by its number from 0. Returns the exit code.
    """
    children = [_Child(options_of(number)) for number in range(processes)]
    # Handed on by the loop, not where they arrive: that may be in the middle of a start.
    received: deque[int] = deque()
    stopping = False

    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda number, _: received.append(number))
    for child in children:
        child.start()
    while True:
        while received:
            number = received.popleft()
            if not stopping:
                # Those that crashed before, and were to be started again, have no part in the end.
                children = [child for child in children if child.exit_code is None]
            stopping = True
            for child in children:
                child.signal(number)
        if stopping and all(child.exit_code is not None for child in children):
            return int(any(child.exit_code not in STOPPED for child in children))
        if not stopping:
            for child in children:
                child.restart_when_due()
        time.sleep(0.1)


class _Child:
    def __init__(self, options: Sequence[str]) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._crashes = 0
        self._restart_at_s: float | None = None

    def start(self) -> None:
        # An option that is given twice has what was given last.
        given = [*sys.argv[1:], "--processes", "1", *self._options]
        arguments = [sys.executable, "-m", "jobq", *given]
        # A group of its own: a terminal's Ctrl-C reaches the supervisor, which hands it on once.
        self._process = subprocess.Popen(arguments, process_group=0, env=os.environ)  # noqa: S603
        self._started_s = time.monotonic()
        self._restart_at_s = None

    @property
    def exit_code(self) -> int | None:
        return 0 if self._process is None else self._process.poll()

    def signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def restart_when_due(self) -> None:
        if self._process is None or self._process.poll() is None:
            return
        now_s = time.monotonic()
        if self._restart_at_s is None:
            self._crashes = 1 if now_s - self._started_s > STEADY_S else self._crashes + 1
            pause_s = RESTART.delay_s(self._crashes, random.uniform(0.5, 1))  # noqa: S311
            self._restart_at_s = now_s + pause_s
            logger.warning(
                "worker process %d ended with code %d; starting another in %.1f s",
                self._process.pid,
                self._process.returncode,
                pause_s,
                extra={
                    "pid": self._process.pid,
                    "exit_code": self._process.returncode,
                    "pause_s": pause_s,
                },
            )
        elif now_s >= self._restart_at_s:
            self.start()

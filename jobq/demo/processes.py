"""The demo's worker processes, and what is done to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

LEASE_S = 2.0
GRACE_S = 5.0
POLL_S = 0.2


class WorkerProcess:
    """`jobq worker jobq.demo.shop:app`, as anyone would run it."""

    def __init__(
        self, name: str, concurrency: int, environment: Mapping[str, str], log: IO[bytes]
    ) -> None:
        self.name = name
        self.state = "working"
        self._process = subprocess.Popen(  # noqa: S603
            [
                *(sys.executable, "-m", "jobq", "worker", "jobq.demo.shop:app"),
                *("--concurrency", str(concurrency), "--lease", str(LEASE_S)),
                *("--grace", str(GRACE_S), "--poll", str(POLL_S), "--queues", "jobq-demo"),
            ],
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=Path(log.name).parent,
            process_group=0,  # Ctrl-C stops the demo, which stops its workers itself
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_died(self) -> bool:
        """Whether it ended without the demo's doing."""
        return self.state != "killed" and self._process.poll() is not None

    def freeze(self) -> None:
        """SIGSTOP, and wait until the kernel says that it stands still."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)
        self.state = "frozen"

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self.state = "working"

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.state = "killed"

    def stop(self) -> None:
        """SIGTERM, and wait for it to drain; SIGKILL if it does not."""
        if self._process.poll() is not None:
            return
        self.wake()
        self._process.terminate()
        try:
            self._process.wait(GRACE_S + 5)
        except subprocess.TimeoutExpired:
            self.kill()

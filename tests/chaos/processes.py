"""A process of a chaos run that can be killed, frozen and replaced."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Slot:
    """One seat among the workers or clients, and the process that sits in it at the moment."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self.started = 0
        self.ended_by_itself = 0
        """Times its process ended without anybody's doing."""
        self._command = command
        self._environment = {**os.environ, **environment}
        self._log_path = folder / f"{name}.log"
        self._is_ending = False
        self._start()

    def _start(self) -> None:
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C stops the run, which stops its processes itself
            )
        self.started += 1
        self._is_ending = False

    def tend(self) -> None:
        """Put a new process into the place of one that ended."""
        if self._process.poll() is None:
            return
        self.ended_by_itself += not self._is_ending
        self._start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._start()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM; `tend` replaces the process when it has drained."""
        self._is_ending = True
        self._process.terminate()

    def stop(self, patience_s: float) -> None:
        """SIGTERM, and wait for it to end; SIGKILL if it does not."""
        self.wake()
        self.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        self._process.kill()
        self._process.wait()

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

"""Workers as the scoreboard sees them: process groups that are started, stopped and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from bench.peers.child import REPOSITORY
from scoreboard.adapter import Given

SHOWN_BYTES = 1_000
PACKAGE = "scoreboard.queues"


class Worker:
    """A worker's processes, which are a group of their own: celery's are several."""

    def __init__(self, python: str, module: str, given: Given) -> None:
        self.given = given
        self._output = Path(given.folder, f"output-{given.worker}")
        command = [python, "-m", f"{PACKAGE}.{module}", "work", json.dumps(asdict(given))]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    @property
    def is_stopped(self) -> bool:
        """Whether SIGSTOP has taken effect."""
        status = Path(f"/proc/{self._process.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "T"

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def end(self) -> None:
        """Kill what is left of it."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def last_words(self) -> str:
        return self._output.read_text(errors="replace")[-SHOWN_BYTES:].strip()

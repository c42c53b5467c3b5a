"""A queue's process, as the suite sees it: roles to play, and JSON lines that come back."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryFile
from typing import IO, Any

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 60.0
SHOWN_BYTES = 2_000


class Failed(Exception):
    """A queue's process died, or did not say in time what it was to say."""


class Child:
    """One running process. See `bench.peers.adapter` for what it says in each role."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors
        self._said: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._said.put(json.loads(line))
            except ValueError:  # a queue that prints a banner
                print(line, end="", file=sys.stderr)
        self._said.put(None)

    def hear(self, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Return what it says next. Raises Failed."""
        try:
            said = self._said.get(timeout=timeout_s)
        except Empty:
            raise Failed(f"said nothing for {timeout_s:g} s; {self._last_words()}") from None
        if said is None:
            raise Failed(f"exited with {self._process.wait()}; {self._last_words()}")
        return said

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def finish(self) -> dict[str, Any]:
        """End its stdin, and return its last words: how often each job was run."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.hear()

    def end(self) -> None:
        """Kill it. How a queue stops is not measured."""
        self._process.kill()
        self._process.wait()
        self._listener.join(TIMEOUT_S)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _last_words(self) -> str:
        self._errors.seek(0, 2)
        self._errors.seek(max(0, self._errors.tell() - SHOWN_BYTES))
        return "stderr: " + self._errors.read().decode(errors="replace").strip()


@contextmanager
def child(
    python: str, name: str, role: str, *, package: str = "bench.peers.adapters", **argument: Any
) -> Iterator[Child]:
    """Start the queue's process in a role; it is killed at the end of the block."""
    command = [python, "-m", f"{package}.{name}", role, json.dumps(argument)]
    with TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=REPOSITORY,
        )
        started = Child(process, errors)
        try:
            yield started
        finally:
            started.end()

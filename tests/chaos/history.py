"""What every process says it did: one JSON line for each operation, in a file of its own.

A line is one `write` to a file opened with O_APPEND, so it is there whole or not at all, and what
was written stays when the process is killed. The times are for whoever reads a violation; nothing
is decided by them.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

SUFFIX = ".history.jsonl"


class Op(StrEnum):
    ENQUEUE = "enqueue"
    CLAIM = "claim"
    """The worker received the job and its token."""
    START = "start"
    """The attempt is about to run its handler."""
    EFFECT = "effect"
    """The handler is inside its commit boundary and about to write."""
    COMMIT = "commit"
    """What the commit boundary answered."""
    FAIL = "fail"
    """The worker reported that the attempt failed."""
    HEARTBEAT = "heartbeat"
    """Whether the lease was held; `fate` when its job was cancelled."""
    CANCEL = "cancel"


class Answer(StrEnum):
    """How an operation ended, for whoever called it."""

    NONE = ""
    """It has no answer, or was killed before it came."""
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    """LeaseLost or AlreadyCommitted; `fate` is what AlreadyCommitted named."""
    FAILED = "failed"
    """It did not take place, and the caller was told so."""
    UNKNOWN = "unknown"
    """The answer was lost: it took place or it did not."""
    TRUE = "true"
    FALSE = "false"


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of a history."""

    op: Op
    answer: Answer = Answer.NONE
    job: int | None = None
    token: int | None = None
    attempt: int | None = None
    fate: str = ""
    keys: tuple[str, ...] = ()
    """Of an enqueue: the names its caller gave the jobs."""
    jobs: tuple[int, ...] = ()
    """Of an acknowledged enqueue: the ids of the jobs, in the order of the keys."""
    note: str = ""
    at_s: float = 0.0
    source: str = ""
    """File and line, once it was read back."""

    def __str__(self) -> str:
        facts = {name: value for name, value in asdict(self).items() if value not in (None, "", ())}
        source, at_s = facts.pop("source", "?"), facts.pop("at_s", 0.0)
        told = " ".join(f"{name}={value}" for name, value in facts.items() if name != "op")
        return f"{source} [{at_s:.3f} s] {self.op} {told}"


class History:
    """The file of one process."""

    def __init__(self, folder: Path, role: str) -> None:
        self.path = folder / f"{role}-{os.getpid()}{SUFFIX}"
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()

    def write(self, op: Op, answer: Answer = Answer.NONE, **facts: Any) -> None:
        """Append one operation. It survives the process from here on."""
        line = {"op": op, "answer": answer, "at_s": round(time.monotonic(), 4), **facts}
        encoded = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            written = os.write(self._file, encoded)
        assert written == len(encoded), f"{self.path}: {written} of {len(encoded)} bytes written"

    def close(self) -> None:
        os.close(self._file)


def has_history(folder: Path, role: str) -> bool:
    """Whether a process of this role has begun."""
    return any(folder.glob(f"{role}-*{SUFFIX}"))


def read_histories(folder: Path) -> list[Operation]:
    """Return every process's operations, each process's in its own order."""
    return [
        operation
        for path in sorted(folder.glob(f"*{SUFFIX}"))
        for operation in _read(path, path.read_text().splitlines(keepends=True))
    ]


def _read(path: Path, lines: Sequence[str]) -> Iterator[Operation]:
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith("\n"):
            return  # the process was killed in the middle of it
        facts = json.loads(line)
        yield Operation(
            op=Op(facts.pop("op")),
            answer=Answer(facts.pop("answer")),
            keys=tuple(facts.pop("keys", ())),
            jobs=tuple(facts.pop("jobs", ())),
            source=f"{path.name}:{number}",
            **facts,
        )

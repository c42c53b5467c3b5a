"""What a queue's own process does: the part that every row shares.

It runs in the interpreter of the queue's virtual environment, so it imports the standard library
alone. The scoreboard starts `python -m scoreboard.queues.NAME ROLE JSON`. Roles:

- `clerk` makes the queue's tables, says what there is to know of the adapter, and then answers a
  JSON line on stdin with one on stdout: it enqueues jobs, and says what the queue calls their
  states.
- `work` runs one worker until it is killed. What its handlers do they tell the log: see
  `scoreboard.runs`.
"""

from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, ClassVar

from scoreboard.runs import Runs

MAX_RUNS = 3
"""How often a job may be run in all, in every scenario but the restart of the database."""
PATIENT_RUNS = 10
"""The same there."""

LEASE_S = 6.0
"""How long a silent worker keeps its jobs, in every queue that goes by heartbeats."""
AGE_S = 15.0
"""How long any worker keeps a job, in those that go by its age: no job here takes so long."""

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"


@dataclass(frozen=True)
class About:
    """What there is to know of an adapter."""

    packages: Sequence[str]
    """Whose versions are told with the result; the queue's own first."""
    settings: Mapping[str, object]
    effect: str
    """How a handler applies its effect."""
    sources: Sequence[str]
    """Where the documentation says so."""
    states: Mapping[str, str]
    """What the queue's words for a job's state mean: waiting, running, done or failed."""
    recovery: str = "others"
    """Who runs a dead worker's job: "others", or the worker itself once it is started again
    ("restart")."""
    without: Mapping[str, str] = field(default_factory=dict)
    """Scenarios that it cannot be put into, each with the reason."""


@dataclass(frozen=True)
class Given:
    """What the scoreboard gives to a process."""

    url: str
    folder: str
    worker: str
    """Its name in the log."""
    identity: str
    """What it is to be known by to the queue, where the queue asks for a name: that of the worker
    whose place it takes."""
    broker: str
    """Where the queue's own server is, if it has one."""
    max_runs: int
    lease_s: float = LEASE_S


class Queue(ABC):
    """One queue, set up as its documentation says, with the shortest time-outs that it allows."""

    about: ClassVar[About]

    def __init__(self, given: Given) -> None:
        self.given = given
        self.url = given.url
        self.runs = Runs(given.folder, given.worker)

    @abstractmethod
    def install(self) -> None:
        """Make the queue's tables."""

    @abstractmethod
    def enqueue(self, jobs: Sequence[int]) -> None:
        """Enqueue a job for each number; return when they are committed."""

    @abstractmethod
    def states(self, jobs: Sequence[int]) -> list[str]:
        """Return the queue's own word for the state of each."""

    @abstractmethod
    def work(self) -> None:
        """Run a worker that runs one job at a time. Need not return."""


def main(queue: type[Queue]) -> None:
    """Play the role that the command line names."""
    role, argument = sys.argv[1:]
    adapter = queue(Given(**json.loads(argument)))
    if role == "work":
        adapter.work()
    else:
        _serve(adapter)
    sys.stdout.flush()
    os._exit(0)


def _serve(adapter: Queue) -> None:
    adapter.install()
    about = asdict(adapter.about)
    versions = {package: version(package) for package in about.pop("packages")}
    _say(versions=versions, python=sys.version.split()[0], **about)
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        try:
            if asked["ask"] == "enqueue":
                adapter.enqueue(asked["jobs"])
                _say(enqueued=len(asked["jobs"]))
            else:
                _say(states=adapter.states(asked["jobs"]))
        except Exception as error:  # noqa: BLE001 - the scoreboard decides what it means
            _say(error=f"{type(error).__name__}: {error}")


def _say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()

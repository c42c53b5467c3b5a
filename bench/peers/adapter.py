"""What a queue's own process does: the part that every adapter shares.

It runs in the interpreter of the queue's virtual environment, so it imports the standard library
alone. The suite starts `python -m bench.peers.adapters.NAME ROLE JSON` and reads JSON lines from
its stdout. Roles:

- `install` makes the queue's tables, and prints what there is to know of the adapter.
- `enqueue` enqueues jobs 0 to n - 1 in calls of so many each, and prints how long it took.
- `ask` enqueues one job for each line of stdin, and prints when it began to.
- `work` runs one worker until stdin ends, then prints how often each job was run.

Times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count
from time import monotonic
from typing import Any, ClassVar

Enqueue = Callable[[str, Sequence[int]], None]
"""Enqueues a job of the task ("nothing" or "charge") for each number; returns when they are
committed."""

Ran = Callable[[int], None]
"""A handler calls it with its job's number when it has done its work. Safe in any thread."""

WARM_UP_CALLS = 3
CHARGE = (
    "UPDATE accounts SET balance = balance - 999 WHERE id = {0}",
    "INSERT INTO ledger (order_id, cents) VALUES ({0}, 999)",
)
CHARGE_PSYCOPG = tuple(each.format("%s") for each in CHARGE)
CHARGE_ASYNCPG = tuple(each.format("$1") for each in CHARGE)


@dataclass(frozen=True)
class About:
    """What there is to know of an adapter."""

    packages: Sequence[str]
    """Whose versions are told with the result; the queue's own first."""
    jobs: Mapping[str, int]
    """How many to drain, charge (effects) and enqueue: such that a run takes 5 to 15 seconds."""
    settings: Mapping[str, Mapping[str, Any]]
    """Of the worker, for each workload."""
    is_open: str
    """A query whose answer is true until the queue's own tables say that every job is done."""


class Adapter(ABC):
    """One queue at the best settings that its documentation names for the workload."""

    about: ClassVar[About]

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def install(self) -> None:
        """Make the queue's tables."""

    @abstractmethod
    def producer(self) -> Enqueue:
        """Connect, and return the fastest public way to enqueue."""

    @abstractmethod
    def work(self, workload: str, ran: Ran) -> None:
        """Run one worker of `about.settings[workload]` for the tasks "nothing" and "charge".

        Need not return: the process exits when the suite has seen enough.
        """


class Runs:
    """Counts how often each job was run. The measurement begins when the first tenth has run: so
    nobody pays for opening connections and preparing statements."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.all_ran = threading.Event()
        self.began_s = 0.0
        self._numbers: list[int] = []
        self._count = count(1)  # its next() is atomic, and so is append

    def tick(self, number: int) -> None:
        self._numbers.append(number)
        done = next(self._count)
        if done == self.total // 10:
            self.began_s = monotonic()
        if done == self.total:
            self.all_ran.set()

    def lost_and_duplicated(self) -> tuple[int, int]:
        times = Counter(self._numbers)
        return self.total - len(times), sum(times.values()) - len(times)


def main(queue: type[Adapter]) -> None:
    """Play the role that the command line names."""
    role, argument = sys.argv[1:]
    given = json.loads(argument)
    # A queue that logs every job would be measured with its log, which no two have alike.
    logging.disable(logging.WARNING)
    adapter = queue(given["url"])
    ROLES[role](adapter, given)
    # How a queue stops is not measured, and its threads need not have ended.
    sys.stdout.flush()
    os._exit(0)


def say(**facts: object) -> None:
    # One write for each line: handlers of several threads say when they began.
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _install(adapter: Adapter, _: Mapping[str, Any]) -> None:
    adapter.install()
    about = asdict(adapter.about)
    versions = {package: version(package) for package in about.pop("packages")}
    say(versions=versions, python=sys.version.split()[0], **about)


def _enqueue(adapter: Adapter, given: Mapping[str, Any]) -> None:
    numbers, at_once = range(given["jobs"]), given["at_once"]
    enqueue = adapter.producer()
    if given["is_warmed_up"]:
        for _ in range(WARM_UP_CALLS):
            enqueue(given["task"], numbers[:at_once])
    began_s = monotonic()
    for start in range(0, len(numbers), at_once):
        enqueue(given["task"], numbers[start : start + at_once])
    say(took_s=monotonic() - began_s)


def _ask(adapter: Adapter, _: Mapping[str, Any]) -> None:
    enqueue = adapter.producer()
    for line in sys.stdin:
        asked_s = monotonic()
        enqueue("nothing", [int(line)])
        say(asked_s=asked_s)


def _work(adapter: Adapter, given: Mapping[str, Any]) -> None:
    runs = Runs(given["jobs"])

    def note(number: int) -> None:
        say(started_s=monotonic(), number=number)

    def watch() -> None:
        if given["workload"] != "latency":
            runs.all_ran.wait(given["timeout_s"])
            say(began_s=runs.began_s, all_ran=runs.all_ran.is_set())
        sys.stdin.read()
        lost, duplicated = runs.lost_and_duplicated()
        say(lost=lost, duplicated=duplicated)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    adapter.work(given["workload"], note if given["workload"] == "latency" else runs.tick)


ROLES: Mapping[str, Callable[[Adapter, Mapping[str, Any]], None]] = {
    "install": _install,
    "enqueue": _enqueue,
    "ask": _ask,
    "work": _work,
}

"""What goes wrong, and when: drawn from the seed before anything starts, so that it replays.

The schedule is the same every time. What it strikes is not: processes and the server run as they
will, which is why the histories are kept.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    KILL = "kill"
    """SIGKILL to a worker, and a new one in its place."""
    STOP = "stop"
    """SIGTERM to a worker, as a deploy does it, and a new one in its place."""
    FREEZE = "freeze"
    """SIGSTOP to a worker for longer than a lease, then SIGCONT."""
    TERMINATE = "terminate"
    """pg_terminate_backend of some sessions of jobq's, whatever they are doing."""
    CUT_BEFORE = "cut_before_commit"
    CUT_AT = "cut_at_commit"
    CUT_AFTER = "cut_after_commit"
    CRASH = "crash_database"
    """PostgreSQL stopped with -m immediate, and started again."""
    KILL_CLIENT = "kill_client"
    """SIGKILL to an enqueuer or canceller, and a new one in its place."""


WEIGHTS = {
    Kind.KILL: 5,
    Kind.STOP: 2,
    Kind.FREEZE: 5,
    Kind.TERMINATE: 5,
    Kind.CUT_BEFORE: 4,
    Kind.CUT_AT: 4,
    Kind.CUT_AFTER: 6,
    Kind.CRASH: 2,
    Kind.KILL_CLIENT: 2,
}
MEAN_GAP_S = 0.7


@dataclass(frozen=True, slots=True)
class Fault:
    at_s: float
    """Seconds from the start."""
    kind: Kind
    target: int
    """Which worker or client (modulo how many there are), or how many sessions."""
    for_s: float
    """How long it lasts; 0 for what is over at once."""

    def __str__(self) -> str:
        lasting = f" for {self.for_s:.2f} s" if self.for_s else ""
        return f"{self.at_s:7.2f} s  {self.kind} {self.target}{lasting}"


def draw_schedule(seed: int, seconds: float) -> list[Fault]:
    """Return the faults of a run, in their order. Every kind occurs if there is time for it."""
    draw = random.Random(seed)
    faults: list[Fault] = []
    due = list(Kind)
    draw.shuffle(due)
    at_s = 1.0 + draw.expovariate(1 / MEAN_GAP_S)
    while at_s < seconds:
        # First each kind once: a short run is to meet them all.
        kind = due.pop() if due else draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        lasts_s = {Kind.FREEZE: draw.uniform(1.5, 3.0), Kind.CRASH: draw.uniform(0.1, 2.0)}
        faults.append(Fault(at_s, kind, draw.randrange(1, 13), lasts_s.get(kind, 0.0)))
        at_s += draw.expovariate(1 / MEAN_GAP_S)
    return faults

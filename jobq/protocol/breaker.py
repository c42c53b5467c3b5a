"""When a task that keeps failing is left alone for a while."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jobq.errors import InvalidOption

EMPTY_PROBE_S = 1.0
"""When to look again for a job to probe with."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """Leave a task alone for `pause_s` seconds after so many failures in a row, in one worker.

    Then one job is tried: when it succeeds the task goes on, when it fails the task pauses again.
    A job that is buried at once is at fault itself, and counts for nothing
    (Nygard, "Release It!", 2007: circuit breaker).

    - `failures`: how many in a row.
    - `pause_s`: for how many seconds.

    Raises InvalidOption.
    """

    failures: int = 20
    pause_s: float = 30.0

    def __post_init__(self) -> None:
        if self.failures < 1 or not 0 < self.pause_s < math.inf:
            raise InvalidOption(
                f"Breaker(failures={self.failures}, pause_s={self.pause_s}): use 1 failure or "
                "more, and seconds above 0"
            )


class CircuitBreaker:
    """The breaker of one task in one worker. Times in seconds, on any clock."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._failures = 0
        self._next_probe_s: float | None = None
        """None while the task is not paused."""
        self._is_probing = False

    @property
    def is_paused(self) -> bool:
        return self._next_probe_s is not None

    def succeeded(self) -> None:
        self._failures = 0
        self._next_probe_s = None
        self._is_probing = False

    def failed(self, now_s: float) -> bool:
        """Return whether the task is paused by this failure, and was not before."""
        self._failures += 1
        was_paused = self.is_paused
        if self._is_probing or (self._failures >= self._breaker.failures and not was_paused):
            self._next_probe_s = now_s + self._breaker.pause_s
            self._is_probing = False
        return self.is_paused and not was_paused

    def may_probe(self, now_s: float) -> bool:
        """Whether it is time to try one job."""
        return self._next_probe_s is not None and now_s >= self._next_probe_s

    def probes(self, now_s: float, *, has_job: bool) -> None:
        """A job was claimed to try it, or there was none."""
        self._is_probing = has_job
        # If nothing is heard of the job (it snoozed, lost its lease, was cancelled or still runs),
        # another is tried after the pause.
        pause_s = self._breaker.pause_s if has_job else EMPTY_PROBE_S
        self._next_probe_s = now_s + pause_s

    def until_probe_s(self, now_s: float) -> float:
        """Seconds until one may be tried; infinite when it is not paused."""
        return math.inf if self._next_probe_s is None else max(0.0, self._next_probe_s - now_s)

"""The circuit breakers of a worker's tasks."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jobq.logs import FieldLogger
from jobq.protocol.breaker import CircuitBreaker
from jobq.protocol.states import AttemptEnd
from jobq.task import Task
from jobq.worker.reports import Report, Reports, as_reports


class Breakers:
    """Which tasks are claimed, and which one is tried with a single job. Shared by threads."""

    def __init__(self, tasks: Mapping[str, Task[..., Any]], log: FieldLogger) -> None:
        self.log = log
        self._tasks = {stored: task.name for stored, task in tasks.items()}
        self._breakers = {
            task.name: CircuitBreaker(task.breaker) for task in tasks.values() if task.breaker
        }
        self._lock = threading.Lock()
        self._has_opened = False

    def note(self, task: str, report: Report | Reports) -> None:
        """Learn how attempts at the task ended."""
        breaker = self._breakers.get(task)
        if breaker is None:
            return
        reports = as_reports(report)
        failures = sum(
            failed.end is AttemptEnd.FAILED and failed.retry_delay_s is not None
            for failed in reports.failed
        )
        with self._lock:
            if reports.returned or reports.committed:
                if breaker.is_paused:
                    self.log.warning("task %r works again: it goes on", task, extra={"task": task})
                breaker.succeeded()
                return
            for _ in range(failures):
                if breaker.failed(time.monotonic()):
                    self._has_opened = True
                    self.log.warning(
                        "task %r keeps failing: it pauses in this worker",
                        task,
                        extra={"task": task},
                    )

    def take_opened(self) -> list[str]:
        """Return the same for paused tasks, if one was paused since the last call."""
        if not self._has_opened:
            return []
        with self._lock:
            self._has_opened = False
            return [
                stored
                for stored, name in self._tasks.items()
                if name in self._breakers and self._breakers[name].is_paused
            ]

    def claimable(self) -> list[str]:
        """Return the names under which jobs of tasks that are not paused are stored."""
        if not self._breakers:
            return list(self._tasks)
        with self._lock:
            return [
                stored
                for stored, name in self._tasks.items()
                if not (name in self._breakers and self._breakers[name].is_paused)
            ]

    def to_probe(self) -> str | None:
        """Return a paused task whose time has come, None if there is none."""
        if not self._breakers:
            return None
        with self._lock:
            now_s = time.monotonic()
            return next(
                (name for name, one in self._breakers.items() if one.may_probe(now_s)), None
            )

    def stored_names(self, task: str) -> list[str]:
        """Return the names under which jobs of the task are stored."""
        return [stored for stored, name in self._tasks.items() if name == task]

    def probed(self, task: str, jobs: Sequence[object]) -> None:
        """A claim looked for one job of the task."""
        with self._lock:
            self._breakers[task].probes(time.monotonic(), has_job=bool(jobs))

    def until_probe_s(self) -> float:
        """Seconds until a paused task is to be tried; infinite if none is paused."""
        now_s = time.monotonic()
        return min((one.until_probe_s(now_s) for one in self._breakers.values()), default=math.inf)

"""What jobq may cost, as data, and whether the figures keep to it.

A budget names the figure that decides on it by its benchmark and its name (and its peer, where a
benchmark has several). Nothing is measured here: `judge` takes what the benchmarks returned, or the
reason why one returned nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.harness import Figure, number

RATIO = "x"
DASHBOARD_PAGES = (
    *("overview", "queues", "jobs", "jobs, done", "jobs, ready", "jobs, scheduled"),
    *("jobs, of no queue", "jobs, by argument", "job", "dead", "dead, of no error", "schedules"),
    *("workers", "integrity", "audit"),
)


@dataclass(frozen=True, slots=True)
class Budget:
    """One row: what a figure must reach, or must not exceed."""

    benchmark: str
    figure: str
    sign: Literal[">=", "<="]
    required: float
    unit: str = RATIO
    """Of the figure's ratio; with any other unit, of its value."""
    peer: str | None = None
    """Which of the benchmark's peers; any, where there is only one."""
    missing: str = ""
    """Why nothing measures it yet."""

    def holds(self, measured: float) -> bool:
        return measured >= self.required if self.sign == ">=" else measured <= self.required


BUDGETS = (
    Budget("peers", "no-op drain, 1 worker process", ">=", 2, peer="pgqueuer"),
    Budget("effect", "effect jobs, concurrency 10", ">=", 0.95),
    Budget("effect", "effect jobs, concurrency 32", ">=", 0.95),
    Budget("enqueue", "enqueue, 1 at once", ">=", 0.9),
    Budget("peers", "enqueue, 1,000 at once", ">=", 2, peer="pgqueuer"),
    Budget("enqueue", "enqueue, by COPY", ">=", 0.5),
    Budget("backlog", "drain, a backlog of 1 M", ">=", 0.9),
    Budget("backlog", "drain, 1 M scheduled ahead", ">=", 0.9),
    Budget("backlog", "drain, 1 M done kept", ">=", 0.9),
    Budget("held", "drain after 1 M jobs, a snapshot held", ">=", 0.9),
    Budget("held", "drain after 1 M jobs, overlapping readers", ">=", 0.9),
    Budget("pickup", "pick-up, notified, p50", "<=", 1.5, peer="bare NOTIFY, told, p50"),
    Budget("pickup", "pick-up, notified, p99", "<=", 3, peer="bare NOTIFY, told, p99"),
    Budget("wakeups", "enqueue, 32 clients, beside an idle worker", ">=", 0.85),
    Budget("claim", "claim, 1 M scheduled ahead", "<=", 1.5),
    Budget("claim", "claim, each of 1,000 queues has jobs", "<=", 1.5),
    Budget("claim", "claim, one of 1,000 queues has jobs", "<=", 1.5),
    Budget("sqlite", "effect jobs, concurrency 1", ">=", 0.85),
    Budget("sqlite", "effect jobs, concurrency 10", ">=", 0.85),
    Budget("sqlite", "no-op drain, batches of 100", ">=", 10),
    Budget("noop", "async handlers, concurrency 10", ">=", 0.7),
    Budget("noop", "sync handlers, concurrency 10", ">=", 0.7),
    Budget("noop", "async handlers, concurrency 100, prefetch 100", ">=", 0.7),
    Budget("noop", "sync handlers, concurrency 100, prefetch 100", ">=", 0.7),
    Budget("idle", "idle worker, connections", "<=", 2, "connections"),
    Budget("idle", "idle worker, transactions", "<=", 1, "per second"),
    Budget("idle", "idle worker, resident memory", "<=", 80, "MB"),
    # "Flat": what keeps a single object per job, of any kind, is well above ten bytes a job.
    Budget("memory", "growth over 1 M jobs", "<=", 1, "MB per 100 k"),
    *(Budget("dashboard", f"page {page}, p95", "<=", 200, "ms") for page in DASHBOARD_PAGES),
)

Measured = Mapping[str, Sequence[Figure] | str]
"""What each benchmark returned; the reason, if it returned nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A budget and the figure that decides on it; without one, why there is none."""

    budget: Budget
    figure: Figure | None
    reason: str = ""

    @property
    def measured(self) -> float | None:
        if self.figure is None:
            return None
        return self.figure.ratio if self.budget.unit == RATIO else self.figure.value

    @property
    def holds(self) -> bool | None:
        """None when it was not measured."""
        return None if self.measured is None else self.budget.holds(self.measured)


def judge(measured: Measured, budgets: Sequence[Budget] = BUDGETS) -> list[Verdict]:
    """Return a verdict on each budget, in their order."""
    return [_verdict(budget, measured) for budget in budgets]


def _verdict(budget: Budget, measured: Measured) -> Verdict:
    figures = measured.get(budget.benchmark, f"there is no benchmark `{budget.benchmark}`")
    if not isinstance(figures, str):
        for figure in figures:
            if figure.name == budget.figure and budget.peer in (None, figure.peer):
                return Verdict(budget, figure)
        figures = f"`{budget.benchmark}` measures nothing of this name"
    return Verdict(budget, None, budget.missing or figures)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as aligned text."""
    lines = [f"{'budget':60}{'measured':28}{'ratio':>8}  {'required':26}holds"]
    for each in verdicts:
        budget = each.budget
        beside = f" : {budget.peer}" if budget.peer else ""
        row = f"{budget.benchmark}: {budget.figure}{beside}"
        required = f"{budget.sign} {number(budget.required)} {budget.unit}"
        if each.figure is None:
            lines.append(f"{row:60}{'-':28}{'-':>8}  {required:26}not measured: {each.reason}")
            continue
        value = f"{number(each.figure.value)} {each.figure.unit}"
        ratio = "-" if each.figure.ratio is None else f"{each.figure.ratio:.2f}"
        lines.append(f"{row:60}{value:28}{ratio:>8}  {required:26}{'yes' if each.holds else 'NO'}")
    return "\n".join(lines)

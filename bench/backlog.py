"""Drain of no-op jobs beside a million others: in line, scheduled, done.

Measured: a real `Worker`, as it comes, that drains 60,000 jobs of a line in which a million others
stand behind them; of a database in which a million are scheduled for tomorrow, at a higher
priority; and of one that keeps a million done jobs with their records. Beside: the same 60,000 with
10,000 behind them, and nothing scheduled or kept.

Fair because the four databases stand side by side in one server and are drained in turns, every
other time backwards. Before each turn as many jobs as it takes join the line's end, by the same
statement, and the database is vacuumed, analyzed and checkpointed; then the same number is timed
from the head of the line. The others are never drained: the ratio shows what their presence costs a
claim, a lease and a record. Two databases alike differ by a fifth from one turn to the next, so
each repetition is of several turns.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

from bench import tables
from bench.harness import Figure, Place, compare, in_turn, settle
from bench.line import TASK, Line

DRAINED, BEHIND, MANY = 60_000, 10_000, 1_000_000
TURNS = 4
FEW = "a backlog of 10 k"


def run(place: Place, repeat: int, *, scale: float = 1.0) -> list[Figure]:
    drained, behind, many = (round(jobs * scale) for jobs in (DRAINED, BEHIND, MANY))
    others: dict[str, list[Callable[[str], None]]] = {
        FEW: [partial(tables.ready, task=TASK, jobs=behind)],
        "drain, a backlog of 1 M": [partial(tables.ready, task=TASK, jobs=many)],
        "drain, 1 M scheduled ahead": [
            partial(tables.scheduled, task=TASK, jobs=many),
            partial(tables.ready, task=TASK, jobs=behind),
        ],
        "drain, 1 M done kept": [
            partial(tables.done, task=TASK, jobs=many),
            partial(tables.ready, task=TASK, jobs=behind),
        ],
    }
    with ExitStack() as open_lines:

        def line(loads: list[Callable[[str], None]]) -> Callable[[], float]:
            url = open_lines.enter_context(place.database())
            for load in loads:
                load(url)
            return partial(_drain, url, open_lines.enter_context(closing(Line(url))), drained)

        samples = in_turn({name: line(loads) for name, loads in others.items()}, repeat * TURNS)
    return [compare(samples, name, FEW) for name in samples if name != FEW]


def _drain(url: str, line: Line, jobs: int) -> float:
    tables.ready(url, TASK, jobs)
    settle(url)
    return line.drain_some(jobs)

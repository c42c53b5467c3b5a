"""Plays the scenarios with the queues, one cell after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from bench.peers.child import Failed
from bench.peers.environments import NotInstalled, interpreter
from jobq.embedded import EmbeddedPostgres
from scoreboard.scenarios import SCENARIOS, Scenario, Verdict
from scoreboard.stage import Broken, NotWithin, Row, Stage, stage

ROWS = (
    Row("jobq", "jobq"),
    Row("naive", "jobq"),
    Row("procrastinate", "procrastinate"),
    Row("pgqueuer", "pgqueuer"),
    Row("oban", "oban"),
    Row("chancy", "chancy"),
    Row("awa", "awa"),
    Row("dramatiq", "dramatiq"),
    Row("dbos_steps", "dbos"),
    Row("dbos_datasource", "dbos"),
    Row("celery", "celery", needs_redis=True),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """What one scenario showed of one queue, once."""

    queue: str
    scenario: str
    verdict: Verdict
    took_s: float
    timeline: Sequence[str]


@dataclass(frozen=True, slots=True)
class Results:
    """All cells of a run, and what there is to know of the queues."""

    server: str
    queues: dict[str, Mapping[str, Any]]
    cells: list[Cell]

    def as_json(self) -> dict[str, Any]:
        cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for cell in self.cells:
            told = asdict(cell)
            queue, scenario = told.pop("queue"), told.pop("scenario")
            cells.setdefault(queue, {}).setdefault(scenario, []).append(
                {**told.pop("verdict"), **told}
            )
        return {"server": self.server, "queues": self.queues, "cells": cells}


def play(rows: Sequence[Row], scenarios: Sequence[Scenario], repeat: int = 1) -> Results:
    """Play each scenario with each queue, on an embedded PostgreSQL with its own settings."""
    with EmbeddedPostgres() as server:
        results = Results(_version(server), {}, [])
        for row in rows:
            try:
                python = interpreter(row.environment)
            except NotInstalled as reason:
                verdict = Verdict(f"n/a: {reason}", None)
                results.cells += [Cell(row.name, each.name, verdict, 0.0, ()) for each in scenarios]
                continue
            for scenario in scenarios:
                for _ in range(repeat):
                    cell = _cell(results, row, python, server, scenario)
                    results.cells.append(cell)
                    print(
                        f"{row.name:16} {scenario.name:20} {cell.took_s:5.0f} s  "
                        f"{cell.verdict.says}",
                        file=sys.stderr,
                    )
    return results


def _cell(
    results: Results, row: Row, python: str, server: EmbeddedPostgres, scenario: Scenario
) -> Cell:
    began_s = time.monotonic()
    verdicts: list[Verdict] = []
    timeline: list[str] = []
    for verdict, told in _plays(results, row, python, server, scenario):
        verdicts.append(verdict)
        timeline += told
    return Cell(
        row.name, scenario.name, _worst(verdicts), round(time.monotonic() - began_s, 1), timeline
    )


def _plays(
    results: Results, row: Row, python: str, server: EmbeddedPostgres, scenario: Scenario
) -> Iterator[tuple[Verdict, list[str]]]:
    for play_one in scenario.plays:
        try:
            with stage(row, python, server, max_runs=scenario.max_runs) as played:
                results.queues[row.name] = _facts(played)
                if reason := played.about["without"].get(scenario.name):
                    yield Verdict(f"n/a: {reason}", None), []
                    return
                yield _judged(play_one, played), played.timeline()
        except Broken as reason:
            yield Verdict(f"broke down: {reason}", None), []


def _judged(play_one: Any, played: Stage) -> Verdict:
    try:
        verdict: Verdict = play_one(played)
    except (NotWithin, Broken, Failed) as reason:
        for name, output in played.outputs().items():
            print(f"{name}: {output}", file=sys.stderr)
        played.tell(f"broke down: {reason}")
        return Verdict(f"broke down: {reason}", None)
    return verdict


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The first that does not hold; of those that hold, all."""
    for verdict in verdicts:
        if not verdict.holds:
            return verdict
    if len(verdicts) == 1:
        return verdicts[0]
    says = ", ".join(each.says.removeprefix("holds: ") for each in verdicts)
    counts = {
        f"{name}_{number}": count
        for number, each in enumerate(verdicts, 1)
        for name, count in each.counts.items()
    }
    return Verdict(f"holds: {says}", True, counts)


def _facts(played: Stage) -> Mapping[str, Any]:
    told = ("versions", "python", "settings", "effect", "recovery", "sources")
    return {name: played.about[name] for name in told}


def _version(server: EmbeddedPostgres) -> str:
    with psycopg.connect(server.url()) as connection:
        [(version,)] = connection.execute("SHOW server_version").fetchall()
    return f"PostgreSQL {str(version).split()[0]}"


def rows_named(names: Sequence[str]) -> Sequence[Row]:
    return [row for row in ROWS if row.name in names] if names else ROWS


def scenarios_named(names: Sequence[str]) -> Sequence[Scenario]:
    return [each for each in SCENARIOS if each.name in names] if names else SCENARIOS

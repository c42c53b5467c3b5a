"""Plays the scenarios with the queues, one cell after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg

from bench.machine import machine
from bench.peers.child import Failed
from bench.peers.environments import NotInstalled, interpreter
from jobq.embedded import EmbeddedPostgres
from scoreboard.adapter import LEASE_S
from scoreboard.scenarios import Scenario, Verdict
from scoreboard.stage import Broken, NotWithin, Row, Stage, stage

ROWS = (
    Row("jobq", "jobq", "jobq"),
    Row("naive", "jobq's naive queue", "jobq"),
    Row("procrastinate", "Procrastinate", "procrastinate"),
    Row("pgqueuer", "PgQueuer", "pgqueuer"),
    Row("oban", "Oban", "oban"),
    Row("chancy", "Chancy", "chancy"),
    Row("awa", "Awa", "awa"),
    Row("dramatiq", "dramatiq-postgres", "dramatiq"),
    Row("dbos_steps", "DBOS, steps", "dbos"),
    Row("dbos_datasource", "DBOS, datasource", "dbos"),
    Row("celery", "Celery on Redis", "celery", needs_redis=True),
)
FACTS = ("versions", "python", "settings", "effect", "recovery", "sources")


@dataclass(frozen=True, slots=True)
class Cell:
    """What one scenario showed of one queue, once."""

    verdict: Verdict
    began_at: str
    """UTC: so that one sees which cells are of one run."""
    took_s: float
    server: str
    timeline: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        told = asdict(self)
        return {**told.pop("verdict"), **told}


@dataclass(slots=True)
class Results:
    """All cells of a run, and what there is to know of the queues."""

    queues: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    cells: dict[str, dict[str, list[Cell]]] = field(default_factory=dict)
    """By queue, then by scenario; one for each repetition."""

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": machine(),
            "queues": self.queues,
            "cells": {
                queue: {name: [each.as_json() for each in cells] for name, cells in played.items()}
                for queue, played in self.cells.items()
            },
        }


def play(
    rows: Sequence[Row],
    scenarios: Sequence[Scenario],
    repeat: int = 1,
    *,
    keep: Callable[[Results], None] = lambda _: None,
) -> Results:
    """Play each scenario with each queue, on an embedded PostgreSQL with its own settings.

    `keep` is called with what there is, after each queue.
    """
    results = Results()
    with EmbeddedPostgres() as server:
        for row in rows:
            try:
                python = interpreter(row.environment)
            except NotInstalled as reason:
                print(f"{row.name}: left out: {reason}", file=sys.stderr)
                continue
            played = results.cells[row.name] = {}
            for scenario in scenarios:
                played[scenario.name] = []
                for _ in range(repeat):
                    cell, results.queues[row.name] = play_cell(server, row, python, scenario)
                    played[scenario.name].append(cell)
                    said = f"{cell.took_s:5.0f} s  {cell.verdict.says}"
                    print(f"{row.name:16} {scenario.name:20} {said}", file=sys.stderr)
            keep(results)
    return results


def play_cell(
    server: EmbeddedPostgres,
    row: Row,
    python: str,
    scenario: Scenario,
    *,
    lease_s: float = LEASE_S,
) -> tuple[Cell, Mapping[str, Any]]:
    """Play one scenario with one queue. Return what it showed, and the facts of the queue."""
    began_s, began_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    verdicts: list[Verdict] = []
    timeline: list[str] = []
    facts: Mapping[str, Any] = {}
    for play_one in scenario.plays:
        try:
            with stage(row, python, server, max_runs=scenario.max_runs, lease_s=lease_s) as played:
                facts = {name: played.about[name] for name in FACTS}
                if reason := played.about["without"].get(scenario.name):
                    verdicts.append(Verdict(f"n/a: {reason}", None))
                    break
                verdicts.append(_judged(play_one, played))
                timeline += played.timeline()
        except Broken as reason:
            verdicts.append(Verdict(f"broke down: {reason}", None))
    took_s = round(time.monotonic() - began_s, 1)
    return Cell(worst(verdicts), began_at, took_s, _version(server), timeline), facts


def _judged(play_one: Callable[[Stage], Verdict], played: Stage) -> Verdict:
    try:
        return play_one(played)
    except (NotWithin, Broken, Failed) as reason:
        for name, output in played.outputs().items():
            print(f"{name}: {output}", file=sys.stderr)
        played.tell(f"broke down: {reason}")
        return Verdict(f"broke down: {reason}", None)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The first that does not hold; of those that hold, all."""
    for verdict in verdicts:
        if not verdict.holds:
            return verdict
    if len(verdicts) == 1:
        return verdicts[0]
    says = ", ".join(each.says.removeprefix("holds: ") for each in verdicts)
    counts = {
        f"{name}_{number}": counted
        for number, each in enumerate(verdicts, 1)
        for name, counted in each.counts.items()
    }
    return Verdict(f"holds: {says}", True, counts)


def _version(server: EmbeddedPostgres) -> str:
    with psycopg.connect(server.url()) as connection:
        [(version,)] = connection.execute("SHOW server_version").fetchall()
    return f"PostgreSQL {str(version).split()[0]}"

"""A budget holds, does not hold, or was not measured for a reason; and the command says which."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bench import __main__ as cli
from bench.budgets import BUDGETS, Budget, judge, verdict_table
from bench.harness import Figure, Place, Unavailable


def figure(name: str = "drain", value: float = 900.0, *, peer: str = "bare") -> Figure:
    return Figure(name, value, "jobs/s", peer, 1_000.0, value / 1_000.0)


@pytest.mark.parametrize(
    ("budget", "value", "holds"),
    [
        (Budget("noop", "drain", ">=", 0.9), 900.0, True),
        (Budget("noop", "drain", ">=", 0.9), 899.0, False),
        (Budget("noop", "drain", "<=", 1.5), 1_500.0, True),
        (Budget("noop", "drain", "<=", 1.5), 1_501.0, False),
        (Budget("noop", "drain", "<=", 80, "MB"), 80.0, True),
        (Budget("noop", "drain", "<=", 80, "MB"), 81.0, False),
    ],
)
def test_a_budget_is_judged_by_the_ratio_or_by_the_value(
    budget: Budget, value: float, holds: bool
) -> None:
    (verdict,) = judge({"noop": [figure(value=value)]}, [budget])

    assert verdict.holds is holds
    assert verdict_table([verdict]).endswith("yes" if holds else "NO")


def test_a_budget_beside_one_of_several_peers_is_judged_by_that_one() -> None:
    figures = [figure(value=100.0, peer="slow"), figure(value=5_000.0, peer="fast")]

    (verdict,) = judge({"peers": figures}, [Budget("peers", "drain", ">=", 2, peer="fast")])

    assert verdict.measured == 5.0


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        ({}, "there is no benchmark `noop`"),
        ({"noop": "left out"}, "left out"),
        ({"noop": [figure("another")]}, "`noop` measures nothing of this name"),
    ],
)
def test_what_was_not_measured_says_why_and_is_no_verdict(
    measured: dict[str, Sequence[Figure] | str], reason: str
) -> None:
    (verdict,) = judge(measured, [Budget("noop", "drain", ">=", 0.9)])

    assert verdict.holds is None
    assert verdict_table([verdict]).endswith(f"not measured: {reason}")


def test_no_budget_is_declared_twice() -> None:
    names = [(budget.benchmark, budget.figure, budget.peer) for budget in BUDGETS]

    assert len(set(names)) == len(names)


@pytest.fixture
def without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place("a server", lambda: nullcontext("postgresql://"), {"fsync": "on"})
    monkeypatch.setattr(cli, "place_of", lambda *_: nullcontext(place))


def budgets(monkeypatch: pytest.MonkeyPatch, runs: dict[str, Any], *options: str) -> Result:
    monkeypatch.setattr(cli, "BENCHMARKS", runs)
    return CliRunner().invoke(cli.main, ["budgets", *options], catch_exceptions=False)


def drains(ratio: float) -> Any:
    def run(place: Place, repeat: int) -> list[Figure]:
        return [
            Figure(f"drain, {what}", ratio, "jobs/s", "alone", 1.0, ratio, [ratio] * repeat)
            for what in ("a backlog of 1 M", "1 M scheduled ahead", "1 M done kept")
        ]

    return run


@pytest.mark.usefixtures("without_a_server")
def test_the_command_ends_well_when_what_was_measured_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = budgets(monkeypatch, {"backlog": drains(0.9)})

    assert ended.exit_code == 0
    assert ended.stdout.count(" yes\n") == 3


@pytest.mark.usefixtures("without_a_server")
def test_the_command_fails_when_one_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = budgets(monkeypatch, {"backlog": drains(0.89)})

    assert ended.exit_code == 1
    assert ended.stdout.count(" NO\n") == 3


@pytest.mark.usefixtures("without_a_server")
def test_a_benchmark_that_fails_is_told_and_the_others_are_still_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(place: Place, repeat: int) -> list[Figure]:
        raise TimeoutError("not every job was run")

    ended = budgets(monkeypatch, {"claim": fails, "backlog": drains(0.9)})

    assert ended.exit_code == 1
    assert "not measured: it failed: TimeoutError: not every job was run" in ended.stdout
    assert ended.stdout.count(" yes\n") == 3


@pytest.mark.usefixtures("without_a_server")
def test_what_cannot_be_had_here_does_not_fail_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unavailable(place: Place, repeat: int) -> list[Figure]:
        raise Unavailable("this needs Linux")

    ended = budgets(monkeypatch, {"idle": unavailable})

    assert ended.exit_code == 0
    assert ended.stdout.count("not measured: this needs Linux") == 3


@pytest.mark.usefixtures("without_a_server")
def test_json_has_the_repetitions_the_machine_and_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = budgets(
        monkeypatch, {"backlog": drains(1.0)}, "--json", "--repeat", "2", "--database-url", "secret"
    )

    told = json.loads(ended.stdout)
    assert told["command"] == "uv run python -m bench budgets --database-url URL --repeat 2"
    assert told["servers"] == {"a server": {"fsync": "on"}}
    assert told["machine"].keys() >= {"cpus", "memory_mb", "python", "versions"}
    assert [each["ratios"] for each in told["figures"]["backlog"]] == [[1.0, 1.0]] * 3
    assert [each["holds"] for each in told["verdicts"]].count(True) == 3

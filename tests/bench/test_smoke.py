"""Every benchmark of the large ones runs at a tiny size, and returns the figures of its budgets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from bench import __main__ as cli
from bench import claim, dashboard, held, idle, memory, pickup, steady
from bench.budgets import BUDGETS


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (claim, "SAMPLES", 5),
        (dashboard, "SAMPLES", 2),
        (held, "LOTS", 2),
        (idle, "SETTLE_S", 0.0),
        (idle, "WATCHED_S", 0.5),
        (memory, "LOTS", 2),
        (memory, "LOT", 20_000),
        (pickup, "SAMPLES", 2),
        (steady, "CLIENTS", 1),
        (steady, "SECONDS", 600.0),
        (steady, "RATES", (100,)),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize(
    "name",
    ["backlog", "held", "claim", "wakeups", "steady", "idle", "memory", "pickup", "dashboard"],
)
def test_it_measures_what_its_budgets_name(name: str, postgres_url: str) -> None:
    options = [name, "--repeat", "1", "--json", "--database-url", postgres_url]
    if cli.keywords_of(name, {"scale": 1}):
        options += ["--scale", "0.0005"]

    ended = CliRunner().invoke(cli.main, options, catch_exceptions=False)

    figures: list[dict[str, Any]] = json.loads(ended.stdout)["figures"][name]
    assert postgres_url not in ended.stdout
    assert {each["name"] for each in figures} >= {
        budget.figure for budget in BUDGETS if budget.benchmark == name
    }
    assert all(each["value"] > 0 for each in figures if each["ratio"] is not None)

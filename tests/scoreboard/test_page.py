"""docs/scoreboard.md says what results.json says, and results.json says something of every cell."""

from __future__ import annotations

import re
from typing import Any

import pytest

from scoreboard import page
from scoreboard.scenarios import SCENARIOS, Verdict
from scoreboard.suite import ROWS, worst

CELLS = [(row.name, each.name) for row in ROWS for each in SCENARIOS]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return page.saved()


def test_the_page_is_what_the_results_render_to(results: dict[str, Any]) -> None:
    text = page.PAGE.read_text()

    assert page.render(text, results) == text, "run `uv run python -m scoreboard render`"


@pytest.mark.parametrize(("queue", "scenario"), CELLS)
def test_every_cell_was_played(results: dict[str, Any], queue: str, scenario: str) -> None:
    for cell in results["cells"][queue][scenario]:
        assert cell["says"]
        assert not cell["says"].startswith("broke down")
        if cell["holds"] is None:
            assert cell["says"].startswith("n/a: ")
        else:
            assert cell["counts"]
            assert cell["timeline"]
            assert re.match(r"PostgreSQL \d+", cell["server"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_queue_tells_its_versions_and_settings(results: dict[str, Any], row: Any) -> None:
    facts = results["queues"][row.name]

    assert facts["versions"]
    assert facts["settings"]


def test_the_page_tells_of_every_scenario() -> None:
    text = page.PAGE.read_text()

    for number, scenario in enumerate(SCENARIOS, 1):
        assert f"{number}. **{scenario.title.capitalize()}** (`{scenario.name}`)" in text


def test_a_cell_that_does_not_hold_is_bold_and_repetitions_are_counted() -> None:
    held = {"says": "exactly once", "holds": True}
    harmed = {"says": "twice", "holds": False}
    cells = {"jobq": {"late-effect": [held], "killed-after-effect": [harmed, harmed, held]}}

    first_row = page.table({"queues": {}, "cells": cells}).splitlines()[2]

    assert "| exactly once |" in first_row
    assert "| **twice** (2 of 3); exactly once (1 of 3) |" in first_row
    assert "| not played |" in first_row


def test_one_play_that_does_not_hold_is_the_verdict() -> None:
    held = Verdict("holds: 9 s", True, {"recovered_s": 9.0})
    harmed = Verdict("not recovered in 90 s", False)

    assert worst([held, harmed]) is harmed
    both = worst([held, held])
    assert (both.says, both.holds) == ("holds: 9 s, 9 s", True)
    assert both.counts == {"recovered_s_1": 9.0, "recovered_s_2": 9.0}

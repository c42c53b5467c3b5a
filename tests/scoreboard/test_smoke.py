"""The harness for real: processes, SIGSTOP and SIGKILL, with jobq and with its naive path."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from jobq.embedded import EmbeddedPostgres
from scoreboard import scenarios
from scoreboard.scenarios import SCENARIOS
from scoreboard.suite import ROWS, play_cell

LEASE_S = 3.0
EXPECTED = {
    ("jobq", "late-effect"): "exactly once",
    ("jobq", "killed-after-effect"): "exactly once",
    ("naive", "late-effect"): "twice",
    ("naive", "killed-after-effect"): "twice",
}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("queue", "scenario"), EXPECTED)
def test_a_zombie_and_a_killed_worker(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, queue: str, scenario: str
) -> None:
    # jobq has neither a leader to wait for nor a broker, and what is late here comes at once.
    for name in ("LEADS_WITHIN_S", "LETS_GO_S", "SETTLES_S"):
        monkeypatch.setattr(scenarios, name, 0.5)
    (row,) = (each for each in ROWS if each.name == queue)
    (played,) = (each for each in SCENARIOS if each.name == scenario)

    cell, _ = play_cell(server, row, sys.executable, played, lease_s=LEASE_S)

    assert cell.verdict.says == EXPECTED[queue, scenario], "\n".join(cell.timeline)

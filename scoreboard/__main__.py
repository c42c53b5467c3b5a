"""`python -m scoreboard`."""

from __future__ import annotations

import json
import signal
import sys

import click

from bench.peers.command import names
from scoreboard import page
from scoreboard.scenarios import SCENARIOS
from scoreboard.suite import ROWS, Results, play

QUEUE_NAMES = tuple(row.name for row in ROWS)
SCENARIO_NAMES = tuple(each.name for each in SCENARIOS)


@click.group(invoke_without_command=True)
@click.option("--only", callback=names(*QUEUE_NAMES), help=f"Of {', '.join(QUEUE_NAMES)}.")
@click.option(
    "--scenario", callback=names(*SCENARIO_NAMES), help=f"Of {', '.join(SCENARIO_NAMES)}."
)
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="All of it, with the timelines.")
@click.option("--save", "is_kept", is_flag=True, help="Keep the cells in results.json, and render.")
@click.pass_context
def main(
    context: click.Context,
    only: tuple[str, ...],
    scenario: tuple[str, ...],
    repeat: int,
    as_json: bool,
    is_kept: bool,
) -> None:
    """Play the failure modes with each queue, on an embedded PostgreSQL: some forty minutes."""
    if context.invoked_subcommand is not None:
        return
    # The workers are in sessions of their own, and would outlive us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows = [row for row in ROWS if not only or row.name in only]
    scenarios = [each for each in SCENARIOS if not scenario or each.name in scenario]
    measured = play(rows, scenarios, repeat, keep=_keep if is_kept else _forget).as_json()
    print(json.dumps(measured, indent=2) if as_json else page.as_text(measured))


@main.command()
def render() -> None:
    """Write the table and the settings of results.json into docs/scoreboard.md."""
    _render()


def _keep(results: Results) -> None:
    page.save(results.as_json())
    _render()


def _forget(results: Results) -> None:
    """Results that are only printed."""


def _render() -> None:
    page.PAGE.write_text(page.render(page.PAGE.read_text(), page.saved()))


if __name__ == "__main__":
    main()

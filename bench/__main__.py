"""`python -m bench NAME` runs one benchmark; `python -m bench budgets` holds them to theirs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from inspect import getdoc, getmodule, signature
from pathlib import Path
from typing import Any, TextIO

import click

from bench import (
    backlog,
    claim,
    dashboard,
    effect,
    enqueue,
    held,
    idle,
    memory,
    noop,
    pickup,
    sqlite,
    steady,
    wakeups,
)
from bench.budgets import judge, verdict_table
from bench.harness import Figure, Place, Unavailable, postgres_place, sqlite_place, table
from bench.machine import machine
from bench.peers import suite
from bench.peers.command import DATABASE_URL, peers

BENCHMARKS: Mapping[str, Callable[..., list[Figure]]] = {
    "effect": effect.run,
    "noop": noop.run,
    "enqueue": enqueue.run,
    "pickup": pickup.run,
    "backlog": backlog.run,
    "held": held.run,
    "claim": claim.run,
    "wakeups": wakeups.run,
    "steady": steady.run,
    "idle": idle.run,
    "memory": memory.run,
    "sqlite": sqlite.run,
    "dashboard": dashboard.run,
    "peers": suite.run,
}
ON_FILES = ("sqlite",)
QUICK = {"scale": 0.1}

REPEAT = partial(click.option, "--repeat", show_default=True, type=click.IntRange(1))
AS_JSON = click.option(
    "--json", "as_json", is_flag=True, help="With each repetition, the machine and the settings."
)
KEYWORDS = {
    "session": click.option("--session", is_flag=True, help="Through SQLAlchemy sessions."),
    "scale": click.option(
        "--scale",
        default=1.0,
        show_default=True,
        type=click.FloatRange(0, 1, min_open=True),
        help="How much of the full size to take.",
    ),
}
"""Options for the benchmarks whose `run` takes them."""


@click.group()
def main() -> None:
    """Measure jobq beside the same work without it, and beside other queues."""


def place_of(name: str, database_url: str | None) -> AbstractContextManager[Place]:
    return sqlite_place() if name in ON_FILES else postgres_place(database_url)


def keywords_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the benchmark takes."""
    return {word: given[word] for word in signature(BENCHMARKS[name]).parameters if word in given}


def run_one(
    name: str, *, repeat: int, as_json: bool, database_url: str | None = None, **keywords: Any
) -> None:
    with place_of(name, database_url) as place:
        try:
            figures = BENCHMARKS[name](place, repeat, **keywords)
        except Unavailable as reason:
            raise click.ClickException(str(reason)) from reason
    facts = facts_of(
        name, {place.describe: place.settings}, database_url, repeat=repeat, **keywords
    )
    show(facts, {name: figures}, table(figures), as_json=as_json)


def add_command(name: str) -> None:
    callback: Callable[..., None] = partial(run_one, name)
    for option in (AS_JSON, REPEAT(default=5), *keywords_of(name, KEYWORDS).values()):
        callback = option(callback)
    if name not in ON_FILES:
        callback = DATABASE_URL(callback)
    main.command(name, help=getdoc(getmodule(BENCHMARKS[name])))(callback)


main.add_command(peers)  # with options of its own
for name in BENCHMARKS.keys() - main.commands.keys():
    add_command(name)


@main.command()
@click.option("--quick", is_flag=True, help="Each once, at a tenth of its size: a first hint.")
@click.option("--only", multiple=True, type=click.Choice(list(BENCHMARKS)), help="Again for more.")
@DATABASE_URL
@REPEAT(default=3)
@AS_JSON
def budgets(
    quick: bool, only: Sequence[str], database_url: str | None, repeat: int, as_json: bool
) -> None:
    """Run the benchmarks and hold them to the budgets in bench/budgets.py.

    Exits with 1 when a budget does not hold or a benchmark failed. What cannot be measured here
    is named with the reason.
    """
    repeat = 1 if quick else repeat
    measured: dict[str, Sequence[Figure] | str] = {}
    settings: dict[str, Mapping[str, str]] = {}
    has_failed = False
    for name, run in BENCHMARKS.items():
        if only and name not in only:
            measured[name] = "left out"
            continue
        print(f"benchmark {name}", file=sys.stderr)
        try:
            with place_of(name, database_url) as place:
                settings[place.describe] = place.settings
                measured[name] = run(place, repeat, **keywords_of(name, QUICK if quick else {}))
        except Unavailable as reason:
            measured[name] = str(reason)
        except Exception as error:  # noqa: BLE001 - told in its rows; the others are still measured
            has_failed = True
            measured[name] = f"it failed: {type(error).__name__}: {error}"
    verdicts = judge(measured)
    facts = facts_of("budgets", settings, database_url, quick=quick, only=only, repeat=repeat)
    facts["verdicts"] = [
        {"budget": asdict(each.budget), "measured": each.measured, "holds": each.holds}
        | ({"reason": each.reason} if each.reason else {})
        for each in verdicts
    ]
    figures = {name: some for name, some in measured.items() if not isinstance(some, str)}
    show(facts, figures, verdict_table(verdicts), as_json=as_json)
    if has_failed or any(verdict.holds is False for verdict in verdicts):
        sys.exit(1)


@main.command()
@click.argument("results", type=click.File())
@click.argument("picture", type=click.Path(dir_okay=False, path_type=Path))
def plot(results: TextIO, picture: Path) -> None:
    """Draw what `budgets --json` or `peers --json` printed, as an SVG."""
    # Of a group of its own: measuring needs no matplotlib.
    from bench.plot import draw

    draw(json.load(results), picture)


def facts_of(
    name: str, servers: Mapping[str, Mapping[str, str]], database_url: str | None, **options: Any
) -> dict[str, Any]:
    """What there is to know about a run: its command, the servers' settings, the machine."""
    # Rebuilt, not copied from argv: the URL may hold a password.
    words = ["uv run python -m bench", name]
    for option, value in {"database-url": "URL" if database_url else None, **options}.items():
        for each in value if isinstance(value, tuple) else (value,):  # given more than once
            if each is True:
                words.append(f"--{option}")
            elif each is not None and each is not False:
                words.append(f"--{option} {each}")
    return {"command": " ".join(words), "machine": machine(), "servers": servers}


def show(
    facts: Mapping[str, Any],
    figures: Mapping[str, Sequence[Figure]],
    text: str,
    *,
    as_json: bool,
) -> None:
    """Print a run: as JSON with all its figures, or as `text` with the least of the facts."""
    if as_json:
        shown = {name: [asdict(each) for each in some] for name, some in figures.items()}
        print(json.dumps({**facts, "figures": shown}, indent=2))
        return
    servers = ", ".join(facts["servers"])
    print(text, f"{facts['command']} | {servers} | {facts['machine']['cpus']} CPUs", sep="\n\n")


if __name__ == "__main__":
    main(prog_name="python -m bench")

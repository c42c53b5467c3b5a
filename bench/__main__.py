"""`python -m bench NAME`: run one benchmark, or the peers, and print the figures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from inspect import getdoc, getmodule

import click

from bench import effect, enqueue, noop, pickup, sqlite
from bench.harness import postgres_place, sqlite_place, table
from bench.peers.command import DATABASE_URL, peers

BENCHMARKS = {
    "effect": effect.run,
    "noop": noop.run,
    "enqueue": enqueue.run,
    "pickup": pickup.run,
    "sqlite": sqlite.run,
}
REPEAT = click.option("--repeat", default=5, show_default=True, type=click.IntRange(1))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="With the ratio of each repetition.")
SESSION = click.option("--session", is_flag=True, help="Through SQLAlchemy sessions.")


@click.group()
def main() -> None:
    """Measure jobq beside the same work without it, and beside other queues."""


def run_one(
    name: str, *, repeat: int, as_json: bool, database_url: str | None = None, session: bool = False
) -> None:
    run = partial(effect.run, session=True) if session else BENCHMARKS[name]
    with sqlite_place() if name == "sqlite" else postgres_place(database_url) as place:
        figures = run(place, repeat)
    # Rebuilt, not copied from argv: the URL may hold a password.
    given = (" --database-url URL" if database_url else "") + (" --session" if session else "")
    command = f"uv run python -m bench {name}{given} --repeat {repeat}"
    facts = {"command": command, "server": place.describe, "cpus": os.cpu_count()}
    if as_json:
        print(json.dumps({**facts, "figures": [asdict(figure) for figure in figures]}, indent=2))
    else:
        print(table(figures), "{command} | {server} | {cpus} CPUs".format(**facts), sep="\n\n")


def add_command(name: str) -> None:
    callback: Callable[..., None] = partial(run_one, name)
    for option in (AS_JSON, REPEAT, *([SESSION] if name == "effect" else [])):
        callback = option(callback)
    if name != "sqlite":  # makes files in the temporary folder
        callback = DATABASE_URL(callback)
    main.command(name, help=getdoc(getmodule(BENCHMARKS[name])))(callback)


for name in BENCHMARKS:
    add_command(name)
main.add_command(peers)

if __name__ == "__main__":
    main(prog_name="python -m bench")

"""`python -m bench NAME`: run one benchmark and print its figures."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from functools import partial

import click

from bench import effect, enqueue, noop, pickup, sqlite
from bench.harness import postgres_place, sqlite_place, table

BENCHMARKS = {
    "effect": effect.run,
    "noop": noop.run,
    "enqueue": enqueue.run,
    "pickup": pickup.run,
    "sqlite": sqlite.run,
}


@click.command()
@click.argument("name", type=click.Choice(list(BENCHMARKS)))
@click.option("--database-url", help="A server to make databases on.  [default: embedded]")
@click.option("--repeat", default=5, show_default=True, type=click.IntRange(1))
@click.option("--session", is_flag=True, help="effect: through SQLAlchemy sessions.")
@click.option("--json", "as_json", is_flag=True, help="With the ratio of each repetition.")
def main(name: str, database_url: str | None, repeat: int, session: bool, as_json: bool) -> None:
    """Measure jobq beside the same work without it, and print the ratio of the two."""
    if session and name != "effect":
        raise click.UsageError("--session belongs to the effect benchmark")
    if database_url and name == "sqlite":
        raise click.UsageError("sqlite makes files in the temporary folder: set TMPDIR instead")
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


if __name__ == "__main__":
    main(prog_name="python -m bench")

"""`python -m bench peers`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import click

from bench.harness import postgres_place
from bench.peers.suite import JOBQ, PEERS, measure, table
from bench.peers.workloads import WORKLOADS

DATABASE_URL = click.option(
    "--database-url", help="A server to make databases on.  [default: embedded]"
)


def names(*allowed: str) -> Callable[[object, object, str | None], tuple[str, ...]]:
    """Read names of a set, with commas between them."""

    def split(_context: object, _option: object, given: str | None) -> tuple[str, ...]:
        chosen = tuple(given.split(",")) if given else ()
        if unknown := set(chosen) - set(allowed):
            raise click.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(allowed)}")
        return chosen

    return split


@click.command()
@click.option("--only", callback=names(JOBQ, *PEERS), help="Queues, with commas.")
@click.option("--workloads", callback=names(*WORKLOADS), help="Workloads, with commas.")
@DATABASE_URL
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option(
    "--scale",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="How much of each job count to take.",
)
@click.option("--json", "as_json", is_flag=True, help="Every run, the machine and the settings.")
def peers(
    only: tuple[str, ...],
    workloads: tuple[str, ...],
    database_url: str | None,
    repeat: int,
    scale: float,
    as_json: bool,
) -> None:
    """Measure jobq beside other queues, in turns, each in a process and environment of its own."""
    with postgres_place(database_url) as place:
        results = measure(place, repeat, only=only, workloads=workloads, scale=scale)
    # Rebuilt, not copied from argv: the URL may hold a password.
    words = ["uv run python -m bench peers", f"--repeat {repeat}"]
    words += ["--database-url URL"] if database_url else []
    words += [f"--only {','.join(only)}"] if only else []
    words += [f"--workloads {','.join(workloads)}"] if workloads else []
    words += [f"--scale {scale:g}"] if scale < 1 else []
    command = " ".join(words)
    if as_json:
        print(json.dumps({"command": command, **results.as_json()}, indent=2))
    else:
        print(table(results), f"{command} | {results.server} | {os.cpu_count()} CPUs", sep="\n\n")

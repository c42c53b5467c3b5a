"""`python -m bench peers`."""

from __future__ import annotations

import json
from collections.abc import Callable

import click

from bench.harness import postgres_place
from bench.peers.suite import JOBQ, PEERS, measure, table
from bench.peers.workloads import WORKLOADS


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
@click.option("--database-url", help="A server to make databases on.  [default: embedded]")
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
    print(json.dumps(results.as_json(), indent=2) if as_json else table(results))

"""`python -m tests.explorer`: explore every schedule, replay one, or try the mutations.

Exit code 1 when a schedule breaks an invariant, or a mutation is not caught.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from jobq.embedded import EmbeddedPostgres
from tests.explorer.explorer import Explorer, Finding, Report
from tests.explorer.play import schedule_of
from tests.explorer.run import explore_all, explore_mutations, make_database, space_named
from tests.explorer.scenes import spaces
from tests.explorer.stage import open_stage
from tests.servers import SETTINGS


@click.command()
@click.option("--full", is_flag=True, help="Three actors too, with no fault.")
@click.option("--actors", type=click.IntRange(1, 3), help="Only spaces of so many actors.")
@click.option("--faults", default=1, show_default=True, help="Crashes and lost answers, at most.")
@click.option("--space", "named", help="Only spaces with this in their name.")
@click.option("--schedule", help='Replay one schedule of the space, as in "a a b b:crash a".')
@click.option("--mutations", is_flag=True, help="Take away one guard after the other instead.")
@click.option("--processes", default=os.cpu_count() or 1, show_default=True)
@click.option("--database-url", help="A server to make databases on.  [default: a throwaway one]")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the figures as one line of JSON, last."
)
def main(
    full: bool,
    actors: int | None,
    faults: int,
    named: str | None,
    schedule: str | None,
    mutations: bool,
    processes: int,
    database_url: str | None,
    as_json: bool,
) -> None:
    """Explore the interleavings of jobq's steps on PostgreSQL, every one of them."""
    with _server(database_url) as url:
        if mutations:
            sys.exit(_try_mutations(url))
        if schedule is not None:
            if named is None:
                raise click.UsageError("--schedule needs --space with the space's whole name")
            sys.exit(_replay(url, named, schedule))
        total = Report()
        rounds = [(actors, faults)] if actors else [(1, faults), (2, faults)]
        if full:
            rounds.append((3, 0))
        for count, allowed in rounds:
            total.add(_explore(url, count, allowed, named or "", processes))
    if total.shortest is not None:
        click.echo(f"\nthe shortest schedule that breaks an invariant:\n{total.shortest}")
    if as_json:
        click.echo(json.dumps(_figures(total)))
    sys.exit(1 if total.findings else 0)


def _explore(url: str, actors: int, faults: int, named: str, processes: int) -> Report:
    chosen = [space for space in spaces(actors) if named in str(space)]
    total, began_s = Report(), time.monotonic()
    for explored in explore_all(url, chosen, faults=faults, processes=processes):
        total.add(explored.report)
        click.echo(f"{explored.space:<60} {explored.report}", err=True)
    total.seconds = time.monotonic() - began_s
    at_most = f"at most {faults} fault{'' if faults == 1 else 's'}"
    click.echo(f"{actors} actors, {at_most}, {len(chosen)} spaces: {total}")
    return total


def _replay(url: str, named: str, told: str) -> int:
    space = space_named(named)

    async def run() -> Finding | None:
        database = make_database(url, "jobq_explorer_replay")
        async with open_stage(database, len(space.roles)) as stage:
            return await Explorer(stage).replay(space, schedule_of(told))

    finding = asyncio.run(run())
    click.echo("every invariant holds" if finding is None else finding)
    return 1 if finding else 0


def _try_mutations(url: str) -> int:
    missed = 0
    for mutation, report in explore_mutations(url):
        finding = report.shortest
        missed += finding is None
        schedule = "NOT CAUGHT" if finding is None else " ".join(map(str, finding.schedule))
        click.echo(f"{mutation.name:<80} {mutation.caught_in:<45} {schedule}")
    return 1 if missed else 0


@contextmanager
def _server(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with EmbeddedPostgres({**SETTINGS, "autovacuum": "off"}) as server:
        yield server.url()


def _figures(report: Report) -> dict[str, object]:
    return {
        "schedules": report.schedules,
        "met": report.met,
        "statements": report.statements,
        "seconds": round(report.seconds, 1),
        "violations": len(report.findings),
    }


if __name__ == "__main__":
    main()

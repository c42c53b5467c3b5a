"""`python -m tests.chaos`: a run from the command line. Exit code 1 when an invariant is broken,
2 when there was no run."""

from __future__ import annotations

import json
import sys

import click

from jobq.errors import JobqError
from tests.chaos.chaos import Chaos

SHOWN = 20


@click.command()
@click.option("--seconds", default=120.0, show_default=True, help="How long faults go on.")
@click.option("--hours", type=float, help="The same in hours, for a soak.")
@click.option("--seed", default=1, show_default=True, help="Draws the same schedule again.")
@click.option("--database-url", help="An empty PostgreSQL database.  [default: a throwaway one]")
@click.option("--naive", is_flag=True, help="Without the commit record: must be caught.")
@click.option("--keep", is_flag=True, help="Keep the histories of a clean run too.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one line of JSON, last.")
def main(
    seconds: float,
    hours: float | None,
    seed: int,
    database_url: str | None,
    naive: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """Run jobq under faults, and check what everybody was told against what is so."""
    chaos = Chaos(
        seconds=seconds if hours is None else hours * 3600,
        seed=seed,
        database_url=database_url,
        naive=naive,
        keep=keep,
        tell=click.echo,
    )
    try:
        result = chaos.run()
    except JobqError as error:
        click.echo(f"the run could not be made: {error}", err=True)
        sys.exit(2)
    for violation in result.violations[:SHOWN]:
        click.echo(f"VIOLATION {violation}")
    if len(result.violations) > SHOWN:
        click.echo(f"... and {len(result.violations) - SHOWN} more in {result.report.folder}")
    click.echo(result.report)
    if as_json:
        click.echo(json.dumps(result.report.as_dict()))
    sys.exit(0 if result.report.is_clean else 1)


if __name__ == "__main__":
    main()

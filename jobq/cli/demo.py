"""`jobq demo`."""

from __future__ import annotations

import json
import sys
import time
from importlib.util import find_spec

import click

from jobq.cli import options
from jobq.errors import MissingExtra


@click.command()
@options.database_url
@click.option("--jobs", default=5_000, show_default=True, type=click.IntRange(50, 1_000_000))
@click.option("--seed", default=1, show_default=True, help="Makes the same orders again.")
@click.option("--naive", is_flag=True, help="Without the commit record, to see the double charges.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON, last.")
def demo(database_url: str | None, jobs: int, seed: int, naive: bool, as_json: bool) -> None:
    """Charge 500 accounts exactly once, while things go wrong.

    Three worker processes run the charges. One is killed with SIGKILL, one is frozen past its
    lease and woken again, and the database is restarted. At the end the ledger is compared with
    the orders. Exit code 0 only when nothing is duplicated and nothing lost.

    Without a database URL a throwaway PostgreSQL is started. With one, the demo makes its own
    tables there: the schema jobq_demo and the tables jobq_demo_accounts and jobq_demo_ledger.
    """
    if find_spec("rich") is None:
        raise MissingExtra("jobq demo", "demo")
    from rich.console import Console

    from jobq.demo.display import Display, print_report
    from jobq.demo.run import Demo

    started_s = time.monotonic()
    console = Console(highlight=False)
    with Display(console) as display:
        report = Demo(
            database_url=database_url, jobs=jobs, seed=seed, naive=naive, show=display.show
        ).run()
    print_report(console, report, naive=naive, elapsed_s=time.monotonic() - started_s)
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    sys.exit(0 if report.is_exact else 1)

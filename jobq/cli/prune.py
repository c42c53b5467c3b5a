"""`jobq prune`."""

from __future__ import annotations

import json
import sys

import click
from click.core import ParameterSource

from jobq.cli import options
from jobq.cli.operator import Seconds
from jobq.cli.worker import load_app
from jobq.database.base import Database
from jobq.database.open import open_database
from jobq.database.url import parse_url
from jobq.protocol.retention import Retention, RetentionPolicy
from jobq.protocol.states import Outcome

BATCH = 1_000


@click.command()
@click.argument("app", metavar="[MODULE:APP]", required=False)
@options.database_url
@options.schema
@click.option(
    "--older-than",
    type=Seconds(),
    metavar="AGE",
    help="Instead of the tasks' own times: 30d, 12h, 90m. Of every task in the database.",
)
@click.option(
    "--outcome",
    "outcomes",
    multiple=True,
    type=click.Choice([outcome.value for outcome in Outcome]),
    help="Only jobs that ended so. May be repeated.  [default: all]",
)
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Count them, and delete nothing.")
@click.option("--json", "is_json", is_flag=True, help="Print the counts as JSON.")
@click.pass_context
def prune(
    context: click.Context,
    app: str | None,
    database_url: str | None,
    schema: str,
    older_than: float | None,
    outcomes: tuple[str, ...],
    is_dry_run: bool,
    is_json: bool,
) -> None:
    """Delete ended jobs that were kept for their time, and workers long gone, until none is left.

    `jobq prune shop.tasks:app` keeps the jobs of the app's tasks for as long as the tasks say and
    leaves those of other tasks alone. `jobq prune --older-than 30d` goes by age alone. Workers
    do the former by themselves.
    """
    if (app is None) == (older_than is None):
        raise click.UsageError(
            "say how long jobs are kept, in one way: MODULE:APP for the times of its tasks, or "
            "--older-than AGE for one time for all"
        )
    chosen = [Outcome(name) for name in outcomes] or list(Outcome)
    if older_than is not None:
        one = Retention(older_than, older_than, older_than).only(chosen)
        policy = RetentionPolicy(otherwise=one)
        database = open_database(parse_url(database_url), schema=schema, max_connections=1)
    else:
        assert app is not None
        if context.get_parameter_source("database_url") is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{app} names its database itself: leave out --database-url")
        queue = load_app(app)
        policy = RetentionPolicy({n: task.keep.only(chosen) for n, task in queue.tasks.items()})
        database = queue.open_database(max_connections=1)
    database.check()
    jobs, workers = prune_all(database, policy, is_dry_run=is_dry_run)
    if is_json:
        told = {
            "is_dry_run": is_dry_run,
            "jobs": {outcome.value: count for outcome, count in jobs.items()},
            "workers": workers,
        }
        click.echo(json.dumps(told))
        return
    each = ", ".join(f"{count} {outcome.value}" for outcome, count in jobs.items())
    click.echo(f"{'would prune' if is_dry_run else 'pruned'} jobs: {each}; workers: {workers}")


def prune_all(
    database: Database, policy: RetentionPolicy, *, is_dry_run: bool
) -> tuple[dict[Outcome, int], int]:
    """One walk along all jobs; return the jobs that went by their fate, and the workers."""
    jobs = dict.fromkeys(Outcome, 0)
    walked = 0
    after: int | None = 0
    link = database.link()
    try:
        while after is not None:
            step = database.store.prune(policy, after=after, limit=BATCH, is_dry_run=is_dry_run)
            batch = link.run(step)
            after = batch.after
            walked += batch.walked
            for outcome, count in batch.jobs.items():
                jobs[outcome] += count
            tell_progress(f"\rlooked at {walked} jobs, {sum(jobs.values())} over their time")
        tell_progress("\n")
        return jobs, link.run(database.store.prune_workers(is_dry_run=is_dry_run))
    finally:
        link.close()


def tell_progress(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(text, err=True, nl=False)

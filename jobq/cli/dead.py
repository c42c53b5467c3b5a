"""`jobq dead`."""

from __future__ import annotations

import sys

import click

from jobq import JobQueue
from jobq.cli.operator import (
    Seconds,
    as_json,
    moment,
    plain,
    print_json,
    print_table,
    with_queue,
)


@click.group()
def dead() -> None:
    """Look at dead jobs, and have them run again."""


@dead.command("list")
@click.option("--task", metavar="NAME")
@click.option("--queue", "in_queue", metavar="NAME")
@click.option("--error", metavar="TYPE", help="What they died of, as in ValueError.")
@click.option("--after", default=0, metavar="ID", help="Go on from here, to later jobs.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1_000))
@as_json
@with_queue
def list_(
    queue: JobQueue,
    task: str | None,
    in_queue: str | None,
    error: str | None,
    after: int,
    limit: int,
    as_json: bool,
) -> None:
    """List dead jobs, by their ids."""
    found = queue.dead.list(task=task, queue=in_queue, error_type=error, after=after, limit=limit)
    if as_json:
        print_json(plain(found))
        return
    print_table(
        ("ID", "QUEUE", "TASK", "DIED", "OF", "ARGUMENTS"),
        [
            (
                one.id,
                one.queue,
                one.task,
                moment(one.died_at),
                one.error and f"{one.error.type}: {one.error.message}",
                one.args,
            )
            for one in found
        ],
    )
    if len(found) == limit:
        click.echo(f"further ones: --after {found[-1].id}", err=True)


@dead.command()
@click.argument("job_ids", type=int, nargs=-1, metavar="[ID...]")
@click.option("--all", "are_all", is_flag=True, help="All of them, or all that fit.")
@click.option("--task", metavar="NAME")
@click.option("--queue", "in_queue", metavar="NAME")
@click.option("--error", metavar="TYPE")
@click.option(
    "--spread",
    "spread_s",
    type=Seconds(),
    default="0s",
    metavar="TIME",
    help="With --all: due within this time, evenly drawn, instead of all at once.",
)
@with_queue
def retry(
    queue: JobQueue,
    job_ids: tuple[int, ...],
    are_all: bool,
    task: str | None,
    in_queue: str | None,
    error: str | None,
    spread_s: float,
) -> None:
    """Have dead jobs run again, with all their attempts.

    Exit code 1 if one of those that were named was not dead.
    """
    if bool(job_ids) == are_all or (job_ids and (task or in_queue or error)):
        raise click.UsageError(
            "say which: the IDs of some, or --all, with --task, --queue or --error for a part"
        )
    if are_all:
        count = queue.dead.retry_all(task=task, queue=in_queue, error_type=error, spread_s=spread_s)
        click.echo(f"{count} jobs are to run again")
        return
    outcomes = [
        queue.status(job_id).state == "dead" and queue.jobs.retry(job_id) for job_id in job_ids
    ]
    for job_id, is_due in zip(job_ids, outcomes, strict=True):
        click.echo(f"job {job_id} {'is to run again' if is_due else 'is not dead'}")
    sys.exit(not all(outcomes))

"""`jobq jobs`: what there is, what became of it, and what to do about it."""

from __future__ import annotations

import sys
from datetime import datetime

import click

from jobq import JobQueue, State
from jobq.cli.operator import as_json, moment, plain, print_json, print_table, with_queue
from jobq.protocol.views import JobLife
from jobq.task import JobHandle

TIMED_OUT = 124
"""As timeout(1) has it."""


@click.group()
def jobs() -> None:
    """Look at jobs, and retry, cancel or wait for them."""


@jobs.command("list")
@click.option("--state", type=click.Choice([state.value for state in State]))
@click.option("--queue", "in_queue", metavar="NAME")
@click.option("--task", metavar="NAME")
@click.option("--text", metavar="TEXT", help="What the arguments contain, as JSON.")
@click.option("--before", type=int, metavar="ID", help="Go on from here, to older jobs.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1_000))
@as_json
@with_queue
def list_(
    queue: JobQueue,
    state: str | None,
    in_queue: str | None,
    task: str | None,
    text: str | None,
    before: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, the newest first."""
    page = queue.jobs.list(
        state=state, queue=in_queue, task=task, text=text, before=before, limit=limit
    )
    if as_json:
        print_json(plain(page))
        return
    print_table(
        ("ID", "STATE", "QUEUE", "TASK", "ENQUEUED", "WORKER", "ARGUMENTS"),
        [
            (one.id, one.state, one.queue, one.task, moment(one.created_at), one.worker, one.args)
            for one in page.jobs
        ],
    )
    if page.before is not None:
        click.echo(f"older ones: --before {page.before}", err=True)


@jobs.command()
@click.argument("job_id", type=int, metavar="ID")
@as_json
@with_queue
def show(queue: JobQueue, job_id: int, as_json: bool) -> None:
    """Tell a job's whole life: attempts, leases, refused zombies, its commit record."""
    life = queue.jobs.life(job_id)
    if as_json:
        told = plain(life)
        told["finalized_by"] = life.finalized_by
        told["happenings"] = plain(life.happenings)
        print_json(told)
        return
    _print_life(life)


def _print_life(life: JobLife) -> None:
    status = life.status
    click.secho(f"job {status.id} is {status.state}", bold=True)
    facts = [
        ("task", status.task),
        ("queue", f"{status.queue}, priority {status.priority}"),
        ("arguments", status.args),
        ("attempts", f"{status.attempts} of {status.max_attempts}"),
        ("due", moment(status.due_at)),
        ("not after", moment(life.deadline_at)),
        ("waits for", ", ".join(map(str, life.waits_for))),
        ("awaited by", ", ".join(map(str, life.is_waited_for_by))),
        ("headers", life.headers),
        ("idempotency key", str(status.idempotency_key)),
        ("result", status.result),
    ]
    if life.progress is not None:
        said = life.progress
        share = "" if said.fraction is None else f"{said.fraction:.0%} "
        facts.append(("progress", f"{share}{said.note or ''} (attempt {said.attempt})"))
    if life.record is not None:
        record = life.record
        facts.append(("commit record", f"{record.outcome}, token {record.token}"))
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        if value:
            click.echo(f"  {name:{width}}  {value}")
    click.echo()
    print_table(
        ("AT", "WHAT", "TOKEN", "ATTEMPT", "WORKER", ""),
        [
            (_exactly(one.at), one.what, one.token, one.attempt, one.worker, one.details)
            for one in life.happenings
        ],
    )
    if life.attempts and (error := life.attempts[-1].error) is not None and error.traceback:
        click.echo(f"\n{error.traceback.rstrip()}")


def _exactly(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3]


@jobs.command()
@click.argument("job_ids", type=int, nargs=-1, required=True, metavar="ID...")
@with_queue
def retry(queue: JobQueue, job_ids: tuple[int, ...]) -> None:
    """Have jobs run soon: dead ones with all their attempts, others without waiting for their time.

    Exit code 1 if one of them was neither.
    """
    outcomes = [queue.jobs.retry(job_id) for job_id in job_ids]
    for job_id, is_due in zip(job_ids, outcomes, strict=True):
        click.echo(
            f"job {job_id} is to run again"
            if is_due
            else f"job {job_id} is {queue.status(job_id).state}: there is nothing to retry"
        )
    sys.exit(not all(outcomes))


@jobs.command()
@click.argument("job_ids", type=int, nargs=-1, required=True, metavar="ID...")
@with_queue
def cancel(queue: JobQueue, job_ids: tuple[int, ...]) -> None:
    """Cancel jobs; handlers that run are told, and their commit is refused.

    Exit code 1 if the fate of one was sealed already.
    """
    outcomes = [queue.cancel(job_id) for job_id in job_ids]
    for job_id, is_cancelled in zip(job_ids, outcomes, strict=True):
        click.echo(
            f"job {job_id} is cancelled"
            if is_cancelled
            else f"job {job_id} was {queue.status(job_id).state} already"
        )
    sys.exit(not all(outcomes))


@jobs.command()
@click.argument("job_id", type=int, metavar="ID")
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS")
@as_json
@with_queue
def wait(queue: JobQueue, job_id: int, timeout_s: float | None, as_json: bool) -> None:
    """Wait until a job has ended, and print its result if it has one.

    Exit code 0 when it is done, 1 when it is dead or cancelled, 124 when the time was over.
    """
    try:
        status = JobHandle(job_id, queue).wait(timeout_s)
    except TimeoutError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(TIMED_OUT)
    if as_json:
        print_json(plain(status))
    elif status.result is not None:
        click.echo(status.result)
    is_done = status.state in (State.COMMITTED, State.DONE)
    if not is_done and not as_json:
        click.echo(f"job {job_id} is {status.state}: jobq jobs show {job_id}", err=True)
    sys.exit(not is_done)

"""`jobq enqueue` and `jobq reconcile`."""

from __future__ import annotations

import random
from datetime import datetime

import click
import msgspec

from jobq import Retry
from jobq.cli.operator import Moment, Seconds, as_json, plain, print_json, with_queue
from jobq.cli.worker import load_app
from jobq.client import JobQueue
from jobq.errors import InvalidArguments, InvalidTask
from jobq.protocol.values import LeasedAttempt

LEASES = 100


@click.command()
@click.argument("app", metavar="MODULE:APP")
@click.argument("task")
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE...]")
@click.option("--args", "document", metavar="JSON", help="All arguments, as a JSON object.")
@click.option("--queue", "to_queue", metavar="NAME")
@click.option("--priority", type=int)
@click.option("--delay", "delay_s", type=Seconds(), metavar="TIME", help="30s, 12h")
@click.option("--at", type=Moment(), metavar="MOMENT", help="2026-12-01T08:00+01:00")
@as_json
def enqueue(
    app: str,
    task: str,
    arguments: tuple[str, ...],
    document: str | None,
    to_queue: str | None,
    priority: int | None,
    delay_s: float | None,
    at: datetime | None,
    as_json: bool,
) -> None:
    """Enqueue a job of the app's, as in `jobq enqueue shop.tasks:app charge order_id=7`.

    A value is read as JSON where it is JSON, and is text otherwise; the handler's annotations
    decide. Prints the job's id.
    """
    queue = load_app(app)
    found = queue.tasks.get(task)
    if found is None:
        raise InvalidTask(
            f"{app} has no task {task!r}: it has {', '.join(sorted(queue.tasks)) or 'none'}"
        )
    texts = dict(map(_pair, arguments)) | _document(document)
    options = found.using(queue=to_queue, priority=priority, run_at=at, delay=delay_s)
    try:
        handle = options.enqueue(**found.handler.arguments.of_texts(texts))
    finally:
        queue.close()
    if as_json:
        print_json({"id": handle.id, "is_new": handle.is_new})
    else:
        click.echo(handle.id)


def _document(text: str | None) -> dict[str, str]:
    """The members of a JSON object, each as the JSON that it is."""
    if text is None:
        return {}
    try:
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError as error:
        raise InvalidArguments(
            f'--args is no JSON object ({error}): write {{"name": value}}'
        ) from error
    return {name: bytes(value).decode() for name, value in members.items()}


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"{text!r}: write NAME=VALUE")
    return name, value


@click.command()
@as_json
@with_queue
def reconcile(queue: JobQueue, as_json: bool) -> None:
    """Recover the leases that have expired, until none is left. Workers do so by themselves.

    Committed jobs are finalized, the others retried or buried: with the backoff of `Retry`'s
    defaults, since no app is named.
    """
    backoff = Retry()

    def delay_s(attempt: LeasedAttempt) -> float:
        return backoff.delay_s(attempt.attempt, random.random())  # noqa: S311

    counts = dict.fromkeys(("healed", "retried", "dead", "parked"), 0)
    database = queue.database
    while True:
        recovered = database.run(database.store.reconcile(LEASES, delay_s))
        for name, job_ids in plain(recovered).items():
            counts[name] += len(job_ids)
        if not recovered.total:
            break
    if as_json:
        print_json(counts)
        return
    click.echo(
        f"{counts['healed']} finalized (committed before), {counts['retried']} to be retried, "
        f"{counts['dead']} dead, {counts['parked']} ambiguous"
    )

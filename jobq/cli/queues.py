"""`jobq queues`, `jobq schedules`, `jobq workers`, `jobq audit`."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta

import click

from jobq import JobQueue
from jobq.cli.operator import (
    Moment,
    Seconds,
    as_json,
    duration,
    moment,
    plain,
    print_json,
    print_table,
    with_queue,
)
from jobq.errors import InvalidOption


@click.group()
def queues() -> None:
    """Look at queues, pause and resume them."""


@queues.command("list")
@as_json
@with_queue
def list_queues(queue: JobQueue, as_json: bool) -> None:
    """List the queues that have due jobs or are paused."""
    found = queue.queues.list()
    if as_json:
        print_json(plain(found))
        return
    print_table(
        ("QUEUE", "READY", "THROTTLED", "OLDEST DUE", "PAUSED SINCE", "RESUMES"),
        [
            (
                one.name,
                one.ready,
                one.throttled,
                moment(one.oldest_due_at),
                moment(one.paused_at),
                moment(one.resumes_at),
            )
            for one in found
        ],
    )


@queues.command("pause")
@click.argument("name")
@click.option("--until", type=Moment(), metavar="MOMENT", help="2026-12-01T08:00+01:00")
@click.option("--for", "for_s", type=Seconds(), metavar="TIME", help="30m, 12h, 2d")
@with_queue
def pause_queue(queue: JobQueue, name: str, until: datetime | None, for_s: float | None) -> None:
    """Have no worker anywhere begin a job of the queue, until it is resumed or its time is over."""
    if until is not None and for_s is not None:
        raise InvalidOption("--until and --for both say when it resumes: pass one of them")
    if for_s is not None:
        until = queue.jobs.recent(minutes=1).at + timedelta(seconds=for_s)
    queue.queues.pause(name, until=until)
    click.echo(f"queue {name!r} is paused" + (f" until {moment(until)}" if until else ""))


@queues.command("resume")
@click.argument("name")
@with_queue
def resume_queue(queue: JobQueue, name: str) -> None:
    """End a queue's pause. Exit code 1 if it was not paused."""
    was_paused = queue.queues.resume(name)
    click.echo(f"queue {name!r} {'goes on' if was_paused else 'was not paused'}")
    sys.exit(not was_paused)


@click.group()
def schedules() -> None:
    """Look at periodic jobs; run, pause and resume them."""


@schedules.command("list")
@as_json
@with_queue
def list_schedules(queue: JobQueue, as_json: bool) -> None:
    """List the schedules."""
    found = queue.schedules.list()
    if as_json:
        print_json(plain(found))
        return
    print_table(
        ("SCHEDULE", "CRON", "TIME ZONE", "MISSED", "TASK", "NEXT TICK", "PAUSED SINCE"),
        [
            (
                one.schedule.name,
                one.schedule.cron,
                one.schedule.timezone,
                one.schedule.missed,
                one.schedule.request.task,
                moment(one.next_tick_at),
                moment(one.paused_at),
            )
            for one in found
        ],
    )


@schedules.command("run")
@click.argument("name")
@with_queue
def run_schedule(queue: JobQueue, name: str) -> None:
    """Enqueue its job now, beside its ticks."""
    click.echo(f"job {queue.schedules.run_now(name).id} is enqueued")


@schedules.command("pause")
@click.argument("name")
@with_queue
def pause_schedule(queue: JobQueue, name: str) -> None:
    """Have it make no jobs until it is resumed."""
    queue.schedules.pause(name)
    click.echo(f"schedule {name!r} is paused")


@schedules.command("resume")
@click.argument("name")
@with_queue
def resume_schedule(queue: JobQueue, name: str) -> None:
    """Have it go on with its first tick after now."""
    queue.schedules.resume(name)
    click.echo(f"schedule {name!r} goes on: next {moment(queue.schedules.get(name).next_tick_at)}")


@click.command()
@click.option("--all", "are_all", is_flag=True, help="Those that have stopped, too.")
@as_json
@with_queue
def workers(queue: JobQueue, are_all: bool, as_json: bool) -> None:
    """List the workers: those that are alive, and those that were lost."""
    found = [one for one in queue.workers.list() if are_all or one.state != "stopped"]
    if as_json:
        print_json([{**plain(one), "state": one.state} for one in found])
        return
    print_table(
        ("WORKER", "STATE", "SEEN", "RUNNING SINCE", "QUEUES", "AT ONCE", "LEASES", "VERSION"),
        [
            (
                one.id,
                one.state,
                f"{duration(one.silent_s)} ago",
                moment(one.started_at),
                "" if one.about is None else ", ".join(one.about.queues or ("all",)),
                one.about and one.about.concurrency,
                one.leases,
                one.about and one.about.version,
            )
            for one in found
        ],
    )


@click.command()
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@as_json
@with_queue
def audit(queue: JobQueue, limit: int, as_json: bool) -> None:
    """List what was done by hand: who, when, and to what."""
    found = queue.audit.list(limit=limit)
    if as_json:
        print_json(plain(found))
        return
    print_table(
        ("AT", "WHO", "WHAT", "TO", ""),
        [(moment(one.done_at), one.actor, one.action, one.subject, one.details) for one in found],
    )

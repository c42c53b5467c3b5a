"""`jobq worker`."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from pathlib import Path

import click

from jobq import JobQueue, WorkerOptions
from jobq.cli import logs, metrics
from jobq.cli.supervisor import supervise
from jobq.errors import InvalidApp, InvalidOption
from jobq.worker import Worker, WorkerSettings, event_loop

DEFAULTS = WorkerOptions()


@click.command()
@click.argument("app", metavar="MODULE:APP")
@click.option(
    "-q",
    "--queues",
    metavar="NAME[=N][,...]",
    help="The queues to serve, N jobs of it at once at most.  [default: all]",
)
@click.option(
    "-c",
    "--concurrency",
    default=DEFAULTS.concurrency,
    show_default=True,
    help="Handlers at once, in each process.",
)
@click.option("-p", "--processes", default=1, show_default=True, type=click.IntRange(1))
@click.option(
    "--prefetch", type=int, help="Jobs leased ahead of the handlers.  [default: by their rate]"
)
@click.option(
    "--lease",
    "lease_s",
    default=DEFAULTS.lease_s,
    show_default=True,
    help="Seconds a lease lasts; a crashed worker's jobs wait as long.",
)
@click.option(
    "--grace",
    "grace_s",
    default=DEFAULTS.grace_s,
    show_default=True,
    help="Seconds that SIGTERM gives handlers to finish.",
)
@click.option(
    "--poll",
    "poll_s",
    default=DEFAULTS.poll_s,
    show_default=True,
    help="Seconds between looks for jobs when idle.",
)
@metrics.of_worker
@logs.level
@logs.form
def worker(
    app: str,
    queues: str | None,
    concurrency: int,
    processes: int,
    prefetch: int | None,
    lease_s: float,
    grace_s: float,
    poll_s: float,
    metrics_host: str,
    metrics_port: int | None,
    log_level: str,
    log_format: str,
) -> None:
    """Run the jobs of a JobQueue, as in `jobq worker shop.tasks:app`.

    SIGTERM or SIGINT: stop claiming, let handlers finish within the grace period, give back the
    rest. A second signal stops at once.
    """
    logs.configure(log_level, log_format)
    queue = load_app(app)
    settings: WorkerSettings = {
        "queues": None if queues is None else queues_in(queues, concurrency),
        "concurrency": concurrency,
        "prefetch": prefetch,
        "lease_s": lease_s,
        "grace_s": grace_s,
        "poll_s": poll_s,
    }
    running = queue.worker(**settings).worker
    if processes > 1:
        # What is wrong for all of them is told once, here, not by each again and again.
        queue.open_database(max_connections=1).check()
        sys.exit(supervise(processes, metrics.port_of_process(metrics_port)))
    with metrics.serving_attempts(queue, metrics_host, metrics_port):
        event_loop.run(run(running))


async def run(running: Worker) -> None:
    await running.run(handle_signals=True)
    if running.has_abandoned_handlers:
        # Python would wait for threads, and for coroutines that refuse to be cancelled; the
        # second signal, or the grace period's end, said not to.
        logging.shutdown()
        os._exit(1)


def queues_in(given: str, concurrency: int) -> list[str] | dict[str, int]:
    """Return the names; with a bound for each of them when any has one. Raises InvalidOption."""
    named = [name.strip() for name in given.split(",") if name.strip()]
    if "=" not in given:
        return named
    caps: dict[str, int] = {}
    for one in named:
        name, equals, number = one.partition("=")
        if equals and not number.strip().isdecimal():
            raise InvalidOption(
                f"--queues {one!r}: write NAME=N, N being how many of its jobs may be in hand"
            )
        caps[name.strip()] = int(number) if equals else concurrency
    return caps


def load_app(path: str) -> JobQueue:
    """Import `module:attribute`. Raises InvalidApp, saying what was found instead."""
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute or module_name.startswith("."):
        raise InvalidApp(f"{path!r} names no app: write module:attribute, as in shop.tasks:app")
    # As `python -m` does: a service's package is importable from where the command is run.
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InvalidApp(
            f"cannot import {module_name!r} ({error}): run the command from the folder that has "
            "it, or install it"
        ) from error
    found = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise InvalidApp(f"module {module_name!r} has no {attribute!r}")
        found = getattr(found, name)
    if not isinstance(found, JobQueue):
        raise InvalidApp(f"{path!r} is a {type(found).__qualname__}, not a jobq.JobQueue")
    return found

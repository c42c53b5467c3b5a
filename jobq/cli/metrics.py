"""`jobq metrics`, and the worker's own metrics."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from jobq import JobQueue
from jobq.cli import logs
from jobq.cli.operator import with_queue

host_option = click.option(
    "--metrics-host", default="127.0.0.1", show_default=True, help="0.0.0.0 for all interfaces."
)
port_option = click.option(
    "--metrics-port",
    type=click.IntRange(0, 65_535),
    help="Serve Prometheus metrics of the attempts made here; the second process on the next "
    "port, and so on.",
)


def of_worker(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the worker's command the options about its metrics."""
    return port_option(host_option(command))


def port_of_process(port: int | None) -> Callable[[int], Sequence[str]]:
    """The option that gives each of several processes a port of its own."""

    def options(number: int) -> Sequence[str]:
        return ["--metrics-port", str(port + number)] if port else []

    return options


@contextmanager
def serving_attempts(app: JobQueue, host: str, port: int | None) -> Iterator[None]:
    """Serve the metrics of this process's attempts for a block, unless there is no port.

    In the registry that the app uses already, if it does. Raises MissingExtra or InvalidOption.
    """
    if port is None:
        yield
        return
    from jobq.prometheus import Prometheus, serving

    used = next((each for each in app.middleware if isinstance(each, Prometheus)), None)
    if used is None:
        used = Prometheus()
        app.use(used)
    with serving(used.registry, host, port):
        yield


@click.command()
@with_queue
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 for all interfaces.")
@click.option("--port", default=9000, show_default=True, type=click.IntRange(0, 65_535))
@click.option(
    "--most",
    type=click.IntRange(1),
    default=100_000,
    show_default=True,
    help="Count jobs of one kind so far, and no further.",
)
@logs.level
@logs.form
def metrics(
    queue: JobQueue, host: str, port: int, most: int, log_level: str, log_format: str
) -> None:
    """Serve Prometheus metrics of the queue, read from its database at each scrape."""
    logs.configure(log_level, log_format)
    from jobq.prometheus import CollectorRegistry, QueueCollector, serving

    queue.database.check()  # what is wrong with it is told now
    registry = CollectorRegistry()
    registry.register(QueueCollector(queue, most=most))
    is_stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: is_stopped.set())
    with serving(registry, host, port):
        is_stopped.wait()

"""Metrics for Prometheus (extra `prometheus`).

    app.use(Prometheus())  # of this process's attempts
    REGISTRY.register(QueueCollector(app))  # of the queue, from its database at each scrape

`jobq worker --metrics-port` serves the former, `jobq metrics` the latter.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from jobq.client import JobQueue
from jobq.errors import InvalidOption, JobqError, MissingExtra
from jobq.job import Job
from jobq.middleware import AttemptOutcome, AttemptResult, Middleware
from jobq.protocol.states import Outcome, Stage, State
from jobq.protocol.values import Lease, Record, Recovered, RefusedReport
from jobq.store.gauges import Gauges, gauges

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, start_http_server
    from prometheus_client.metrics_core import GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtra("jobq.prometheus", "prometheus") from error

logger = logging.getLogger("jobq.metrics")

MOST_COUNTED = 100_000
HANDLER_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
WAITING_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 21600, 86400)


class _Attempts:
    """The metrics of a process's attempts in one registry, which can hold them only once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        of_job = ("task", "queue")
        self.attempts = Counter(
            "jobq_attempts", "Attempts that ended.", (*of_job, "outcome"), registry=registry
        )
        self.retries = Counter(
            "jobq_retries", "Failed attempts that another one follows.", of_job, registry=registry
        )
        self.buried = Counter(
            "jobq_buried", "Jobs whose last attempt failed.", of_job, registry=registry
        )
        self.handler_seconds = Histogram(
            "jobq_handler_seconds",
            "From a handler's beginning to its end, the commit included.",
            of_job,
            buckets=HANDLER_SECONDS,
            registry=registry,
        )
        self.wait_seconds = Histogram(
            "jobq_wait_seconds",
            "From when an attempt was due until it was claimed.",
            of_job,
            buckets=WAITING_SECONDS,
            registry=registry,
        )
        self.refusals = Counter(
            "jobq_refusals",
            "Attempts that came too late and changed nothing.",
            ("stage", "reason"),
            registry=registry,
        )
        self.recovered = Counter(
            "jobq_recovered",
            "Jobs whose expired leases this process recovered, by what became of them.",
            ("fate",),
            registry=registry,
        )
        # From 0 on: of a counter that begins with 1 Prometheus sees no increase.
        for stage in Stage:
            for record in (None, *(Record(0, outcome) for outcome in Outcome)):
                report = RefusedReport(Lease(0, 0), stage, record)
                self.refusals.labels(stage.value, report.reason)
        for fate in Recovered().by_fate:
            self.recovered.labels(fate)


_known: WeakKeyDictionary[CollectorRegistry, _Attempts] = WeakKeyDictionary()
_making = threading.Lock()


def _attempts_in(registry: CollectorRegistry) -> _Attempts:
    with _making:
        if registry not in _known:
            _known[registry] = _Attempts(registry)
        return _known[registry]


class Prometheus(Middleware):
    """Metrics of the attempts that this process's workers make: `app.use(Prometheus())`.

    Several in one registry count together.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self._metrics = _attempts_in(registry)

    def attempt_ended(self, job: Job, result: AttemptResult) -> None:
        metrics = self._metrics
        metrics.attempts.labels(job.task, job.queue, result.outcome.value).inc()
        if result.outcome is AttemptOutcome.FAILED:
            (metrics.buried if result.is_dead else metrics.retries).labels(
                job.task, job.queue
            ).inc()
        metrics.handler_seconds.labels(job.task, job.queue).observe(result.took_s)
        metrics.wait_seconds.labels(job.task, job.queue).observe(max(0.0, job.waited_s))

    def refused(self, report: RefusedReport) -> None:
        self._metrics.refusals.labels(report.stage.value, report.reason).inc()

    def recovered(self, recovered: Recovered) -> None:
        for fate, jobs in recovered.by_fate.items():
            self._metrics.recovered.labels(fate).inc(len(jobs))


class QueueCollector(Collector):
    """How it stands with the queue, read from its database whenever it is collected.

    `most`: jobs of one kind are counted so far and no further, so that what a scrape costs does not
    grow with the queue. A database that is away is told as `jobq_database_up 0`. Raises
    InvalidOption.
    """

    def __init__(self, app: JobQueue, *, most: int = MOST_COUNTED) -> None:
        if most < 1:
            raise InvalidOption(f"most is {most}: jobs are counted to 1 or more")
        self._app = app
        self._most = most

    def describe(self) -> Iterable[Metric]:
        """Nothing: else to register would be to ask the database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        try:
            found = self._look()
        except JobqError as error:
            logger.warning(
                "the queue cannot be measured: %s",
                error,
                extra={"error_type": type(error).__qualname__, "error_message": str(error)},
            )
            yield _gauge("jobq_database_up", 0)
        else:
            yield _gauge("jobq_database_up", 1)
            yield from _families(found)

    def _look(self) -> Gauges:
        """On a connection of its own: a pool would wait for a database that is away."""
        database = self._app.open_database(max_connections=1)
        link = database.link()
        try:
            return link.run(gauges(database.store, self._most))
        finally:
            link.close()
            database.close()


HELP = {
    "jobq_database_up": "Whether the database answered, and is migrated.",
    "jobq_jobs": "Jobs by state; those that are done or cancelled are not counted.",
    "jobq_oldest_due_job_age_seconds": "Since when the first job is due that waits in the queue.",
    "jobq_promotion_lag_seconds": "How late the first scheduled job is to be made ready.",
    "jobq_leases": "Open leases.",
    "jobq_leases_expired": "Leases that are over and that nobody has recovered yet.",
    "jobq_queue_paused": "1 for a queue that is paused.",
    "jobq_workers": "Workers that did not say goodbye: alive, or lost.",
    "jobq_schema_info": "The schema's migration, as a label.",
}


def _families(found: Gauges) -> Iterator[Metric]:
    jobs = _gauge("jobq_jobs", labels=("state", "queue"))
    for (state, queue), count in sorted(found.jobs.items()):
        jobs.add_metric((state.value, queue), count)
    yield jobs
    oldest = _gauge("jobq_oldest_due_job_age_seconds", labels=("queue",))
    for queue, age_s in sorted(found.oldest_due_s.items()):
        oldest.add_metric((queue,), age_s)
    yield oldest
    yield _gauge("jobq_promotion_lag_seconds", found.overdue_s)
    held = (State.LEASED, State.COMMITTED)
    leases = sum(count for (state, _), count in found.jobs.items() if state in held)
    yield _gauge("jobq_leases", leases)
    yield _gauge("jobq_leases_expired", found.expired_leases)
    paused = _gauge("jobq_queue_paused", labels=("queue",))
    for queue in sorted(found.paused):
        paused.add_metric((queue,), 1)
    yield paused
    workers = _gauge("jobq_workers", labels=("state",))
    for of_workers, count in found.workers.items():
        workers.add_metric((of_workers,), count)
    yield workers
    info = _gauge("jobq_schema_info", labels=("revision",))
    info.add_metric((found.revision,), 1)
    yield info


def _gauge(name: str, value: float | None = None, labels: Iterable[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, HELP[name], value, list(labels) or None)


@contextmanager
def serving(registry: CollectorRegistry, host: str, port: int) -> Iterator[int]:
    """Serve /metrics on a thread for a block; gives the port, which is a free one for 0.

    Raises InvalidOption when nothing can listen there.
    """
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise InvalidOption(
            f"metrics cannot be served on {host}:{port} ({error.strerror}): choose another port"
        ) from error
    try:
        given = server.server_port
        extra = {"host": host, "port": given}
        logger.info("metrics at http://%s:%d/metrics", host, given, extra=extra)
        yield given
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


__all__ = ["CollectorRegistry", "Prometheus", "QueueCollector", "serving"]

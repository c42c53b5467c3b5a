"""Traces and metrics by OpenTelemetry (extra `otel`): `app.use(OpenTelemetry())`.

By the semantic conventions for messaging, with what only jobq knows under `jobq.`. A job may run
long after it was enqueued, and several times: so each attempt has a trace of its own, which links
to the span that created the job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from jobq.errors import MissingExtra
from jobq.job import Job
from jobq.middleware import AttemptOutcome, AttemptResult, EffectEvent, Middleware
from jobq.protocol.values import AttemptError, JobRequest, Recovered, RefusedReport

try:
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context, attach, detach
    from opentelemetry.metrics import MeterProvider, get_meter
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
except ImportError as error:
    raise MissingExtra("jobq.otel", "otel") from error

SYSTEM = "jobq"
HANDLER_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
WAITING_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 21600, 86400)

Attributes = dict[str, str | int]


@dataclass(slots=True)
class _Open:
    """A span around a handler."""

    span: Span
    is_batch: bool = False
    seen: set[EffectEvent] = field(default_factory=set)


class OpenTelemetry(Middleware):
    """Spans where jobs are enqueued and run, and metrics of their attempts.

    The context goes along in the job's headers by the global propagator.

    - `tracer_provider`, `meter_provider`: the global ones when not given.
    - `as_children`: make an attempt's span a child of the span that created its job, in the same
      trace, instead of linking the two.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        as_children: bool = False,
    ) -> None:
        self._tracer = trace.get_tracer("jobq", tracer_provider=tracer_provider)
        self._as_children = as_children
        self._open: dict[tuple[int, int], _Open] = {}
        """By job and token."""
        meter = get_meter("jobq", meter_provider=meter_provider)
        self._attempts = meter.create_counter(
            "jobq.attempts", "{attempt}", "Attempts that ended, by outcome."
        )
        self._retries = meter.create_counter(
            "jobq.retries", "{attempt}", "Failed attempts that another one follows."
        )
        self._buried = meter.create_counter(
            "jobq.buried", "{job}", "Jobs whose last attempt failed."
        )
        self._refusals = meter.create_counter(
            "jobq.refusals", "{attempt}", "Attempts that came too late and changed nothing."
        )
        self._recovered = meter.create_counter(
            "jobq.recovered", "{job}", "Jobs whose expired leases this worker recovered."
        )
        self._duration = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Seconds from a handler's beginning to its end, the commit included.",
            explicit_bucket_boundaries_advisory=HANDLER_SECONDS,
        )
        self._waiting = meter.create_histogram(
            "jobq.waiting.duration",
            "s",
            "Seconds from when an attempt was due until it was claimed.",
            explicit_bucket_boundaries_advisory=WAITING_SECONDS,
        )

    # -- spans

    def enqueue(self, request: JobRequest, headers: dict[str, str]) -> None:
        attributes = _operation("create", request.queue) | {"jobq.task": request.task}
        span = self._tracer.start_span(
            f"create {request.queue}", kind=SpanKind.PRODUCER, attributes=attributes
        )
        propagate.inject(headers, trace.set_span_in_context(span))
        span.end()

    @contextmanager
    def attempt(self, job: Job) -> Iterator[None]:
        carried = propagate.extract(job.headers)
        span = self._tracer.start_span(
            f"process {job.queue}",
            carried if self._as_children else _without_span(carried),
            SpanKind.CONSUMER,
            _of_operation(job) | _of_attempt(job),
            [] if self._as_children else _links([(carried, None)]),
        )
        # It ends when it is known what became of the attempt: in `handled`.
        self._open[_key(job)] = _Open(span)
        with _current(span, carried):
            yield

    @contextmanager
    def batch(self, jobs: Sequence[Job]) -> Iterator[None]:
        carried = [(propagate.extract(job.headers), _of_attempt(job)) for job in jobs]
        queues = {job.queue for job in jobs}
        attributes = _operation("process", queues.pop() if len(queues) == 1 else None)
        attributes |= {"messaging.batch.message_count": len(jobs), "jobq.task": jobs[0].task}
        span = self._tracer.start_span(
            f"process {attributes.get('messaging.destination.name', jobs[0].task)}",
            Context(),
            SpanKind.CONSUMER,
            attributes,
            _links(carried),
        )
        opened = _Open(span, is_batch=True)
        self._open |= {_key(job): opened for job in jobs}
        try:
            with _current(span, Context()):
                yield
        except Exception as error:
            span.record_exception(error)
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, f"{type(error).__qualname__}: {error}"))
            raise
        finally:
            for job in jobs:
                del self._open[_key(job)]
            span.end()

    def effect(self, job: Job, event: EffectEvent) -> None:
        opened = self._open.get(_key(job))
        if opened is None:
            return
        about: Attributes = {}
        if opened.is_batch:
            if event is EffectEvent.REFUSED:
                about = _of_attempt(job)
            elif event in opened.seen:
                return  # the jobs of a batch share their transaction
        opened.seen.add(event)
        opened.span.add_event(f"effect {event.value}", about)

    def handled(self, job: Job, result: AttemptResult) -> None:
        opened = self._open.get(_key(job))
        if opened is None or opened.is_batch:
            return
        del self._open[_key(job)]
        span = opened.span
        span.set_attribute("jobq.outcome", result.outcome.value)
        if result.outcome is AttemptOutcome.FAILED and result.error is not None:
            span.set_attribute("error.type", result.error.type)
            span.add_event("exception", _exception(result.error))
            told = f"{result.error.type}: {result.error.message}"
            span.set_status(Status(StatusCode.ERROR, told))
        elif result.reason is not None:
            span.set_attribute("jobq.refusal.reason", result.reason)
            if result.reason != "already_cancelled":
                span.set_status(Status(StatusCode.ERROR, f"refused: {result.reason}"))
        span.end()

    # -- metrics

    def attempt_ended(self, job: Job, result: AttemptResult) -> None:
        of_job = {"messaging.destination.name": job.queue, "jobq.task": job.task}
        self._attempts.add(1, {**of_job, "jobq.outcome": result.outcome.value})
        if result.outcome is AttemptOutcome.FAILED:
            (self._buried if result.is_dead else self._retries).add(1, of_job)
        timed = _operation("process", job.queue) | {"jobq.task": job.task}
        if result.outcome is AttemptOutcome.FAILED and result.error is not None:
            timed["error.type"] = result.error.type
        self._duration.record(result.took_s, timed)
        self._waiting.record(max(0.0, job.waited_s), of_job)

    def refused(self, report: RefusedReport) -> None:
        told = {"jobq.refusal.stage": report.stage.value, "jobq.refusal.reason": report.reason}
        self._refusals.add(1, told)

    def recovered(self, recovered: Recovered) -> None:
        for fate, jobs in recovered.by_fate.items():
            if jobs:
                self._recovered.add(len(jobs), {"jobq.fate": fate})


def _key(job: Job) -> tuple[int, int]:
    return job.id, job.fencing_token


def _operation(name: str, queue: str | None) -> Attributes:
    attributes: Attributes = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": name,
        "messaging.operation.type": name,
    }
    if queue is not None:
        attributes["messaging.destination.name"] = queue
    return attributes


def _of_operation(job: Job) -> Attributes:
    return _operation("process", job.queue) | {"jobq.task": job.task}


def _of_attempt(job: Job) -> Attributes:
    return {
        "messaging.message.id": str(job.id),
        "jobq.attempt": job.attempt,
        "jobq.fencing_token": job.fencing_token,
    }


def _exception(error: AttemptError) -> Attributes:
    return {
        "exception.type": error.type,
        "exception.message": error.message,
        "exception.stacktrace": error.traceback,
    }


def _links(carried: Sequence[tuple[Context, Mapping[str, str | int] | None]]) -> list[Link]:
    """To the spans that created the jobs; of those that none created, none."""
    found = [(trace.get_current_span(one).get_span_context(), about) for one, about in carried]
    return [Link(created, about) for created, about in found if created.is_valid]


def _without_span(context: Context) -> Context:
    """The context with its baggage, for the root of another trace."""
    return trace.set_span_in_context(trace.INVALID_SPAN, context)


@contextmanager
def _current(span: Span, context: Context) -> Iterator[None]:
    token = attach(trace.set_span_in_context(span, context))
    try:
        yield
    finally:
        detach(token)

"""Spans and metrics, as OpenTelemetry's own SDK has them."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import Connection, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from jobq import Bury, Job, JobQueue, MissingExtra, On, Retry, Snooze
from jobq.otel import OpenTelemetry
from jobq.store.elapsed import elapse
from tests.observability.traced import SPANS_VARIABLE
from tests.worker.charges import ledger
from tests.worker.conftest import BOUND_S, ROOT, Site, wait_for


class Telemetry:
    """What was exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader])
        self.tracer = self.tracer_provider.get_tracer("test")

    def middleware(self, *, as_children: bool = False) -> OpenTelemetry:
        return OpenTelemetry(self.tracer_provider, self.meter_provider, as_children=as_children)

    def spans(self, name: str, number: int = 1) -> list[ReadableSpan]:
        def found() -> list[ReadableSpan]:
            return [one for one in self.exporter.get_finished_spans() if one.name == name]

        wait_for(lambda: len(found()) >= number, f"{number} spans {name!r}")
        return found()

    def points(self, metric: str) -> list[tuple[dict[str, Any], Any]]:
        data = self.reader.get_metrics_data()
        return [
            (dict(point.attributes or {}), point)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for one in scope.metrics
            if one.name == metric
            for point in one.data.data_points
        ]

    def counted(self, metric: str, **attributes: str) -> int:
        """How much was counted with these attributes, whose dots are written as underscores."""
        return sum(
            point.value
            for found, point in self.points(metric)
            if attributes.items() <= {k.replace(".", "_"): v for k, v in found.items()}.items()
        )


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def app(site: Site, telemetry: Telemetry) -> Iterator[JobQueue]:
    app = JobQueue(site.url)
    app.use(telemetry.middleware())
    yield app
    app.close()


def created(telemetry: Telemetry, queue: str = "default") -> ReadableSpan:
    return telemetry.spans(f"create {queue}")[-1]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def events(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


def test_an_attempt_links_to_what_created_its_job(app: JobQueue, telemetry: Telemetry) -> None:
    seen: dict[str, Any] = {}

    def see() -> None:
        seen["span"] = trace.get_current_span().get_span_context()
        seen["user"] = baggage.get_baggage("user")

    @app.task(queue="billing")
    def charge(db: Session, job: Job) -> None:
        see()
        db.execute(insert(ledger).values(job_id=job.id, charged_by="it"))

    @app.task(queue="billing")
    async def charge_async(db: AsyncSession, job: Job) -> None:
        see()
        await db.execute(insert(ledger).values(job_id=job.id, charged_by="it"))

    for task in (charge, charge_async):
        telemetry.exporter.clear()
        token = context.attach(baggage.set_baggage("user", "ada"))
        with telemetry.tracer.start_as_current_span("request") as request:
            job = task.enqueue()
        context.detach(token)
        with app.worker(poll_s=0.05):
            job.wait(BOUND_S)
            (span,) = telemetry.spans("process billing")

        create = created(telemetry, "billing")
        assert create.kind is SpanKind.PRODUCER
        assert create.parent is not None
        assert create.parent.span_id == request.get_span_context().span_id
        assert attributes(create) == {
            "messaging.system": "jobq",
            "messaging.operation.name": "create",
            "messaging.operation.type": "create",
            "messaging.destination.name": "billing",
            "jobq.task": task.name,
        }
        assert span.kind is SpanKind.CONSUMER
        assert span.parent is None
        assert span.context.trace_id != create.context.trace_id
        assert [link.context.span_id for link in span.links] == [create.context.span_id]
        assert attributes(span) == {
            "messaging.system": "jobq",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "billing",
            "messaging.message.id": str(job.id),
            "jobq.task": task.name,
            "jobq.attempt": 1,
            "jobq.fencing_token": 1,
            "jobq.outcome": "committed",
        }
        assert events(span) == ["effect begun", "effect committed"]
        assert span.status.status_code is StatusCode.UNSET
        assert seen["span"] == span.context
        assert seen["user"] == "ada"


def test_an_attempt_may_be_a_child_instead(site: Site, telemetry: Telemetry) -> None:
    app = JobQueue(site.url)
    app.use(telemetry.middleware(as_children=True))

    @app.task
    def handle() -> None: ...

    job = handle.enqueue()
    with app.worker(poll_s=0.05):
        job.wait(BOUND_S)
        (span,) = telemetry.spans("process default")
    app.close()
    create = created(telemetry)
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (
        create.context.trace_id,
        create.context.span_id,
    )
    assert not span.links


class RateLimited(Exception): ...


def test_status_and_counts_by_outcome(app: JobQueue, telemetry: Telemetry) -> None:
    rules = [On(RateLimited, snooze=3600)]

    @app.task(queue="q", max_attempts=2, retry=Retry(base_s=0.01))
    def fail() -> None:
        raise ValueError("not now")

    @app.task(queue="q")
    def bury() -> None:
        raise Bury("gone")

    @app.task(queue="q")
    async def snooze() -> None:
        raise Snooze(3600)

    @app.task(queue="q", retry=Retry(rules=rules))
    def limited() -> None:
        raise RateLimited

    @app.task(queue="q")
    def cancel(job: Job) -> None:
        app.cancel(job.id)
        with suppress(BaseException), job.commit():
            pass

    jobs = [task.enqueue() for task in (fail, bury, snooze, limited, cancel)]
    with app.worker(poll_s=0.05):
        spans = telemetry.spans("process q", 6)
        wait_for(lambda: telemetry.counted("jobq.refusals"), "the refusal to be told")

    by_job: dict[str, list[ReadableSpan]] = {}
    for span in spans:
        by_job.setdefault(attributes(span)["messaging.message.id"], []).append(span)
    failed, buried, snoozed, ruled, cancelled = (by_job[str(job.id)] for job in jobs)
    assert [attributes(span)["jobq.attempt"] for span in failed] == [1, 2]
    for span in failed:
        assert attributes(span)["jobq.outcome"] == "failed"
        assert attributes(span)["error.type"] == "ValueError"
        assert span.status.description == "ValueError: not now"
        (raised,) = span.events
        assert raised.name == "exception"
        assert "in fail" in str((raised.attributes or {})["exception.stacktrace"])
    assert buried[0].status.status_code is StatusCode.ERROR
    for (span,) in (snoozed, ruled):
        assert attributes(span)["jobq.outcome"] == "snoozed"
        assert span.status.status_code is StatusCode.UNSET
        assert events(span) == []
    assert attributes(cancelled[0])["jobq.refusal.reason"] == "already_cancelled"
    assert events(cancelled[0]) == ["effect refused"]
    assert cancelled[0].status.status_code is StatusCode.UNSET

    page = (ROOT / "docs/observability.md").read_text()
    data = telemetry.reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        assert f"| `{metric.name}` |" in page
    for name in {name for span in spans for name in attributes(span)}:
        assert f"`{name}`" in page
    assert telemetry.counted("jobq.attempts", jobq_outcome="failed") == 3
    assert telemetry.counted("jobq.attempts", jobq_outcome="snoozed") == 2
    assert telemetry.counted("jobq.attempts", jobq_outcome="refused") == 1
    assert telemetry.counted("jobq.retries", jobq_task=fail.name) == 1
    assert telemetry.counted("jobq.buried", messaging_destination_name="q") == 2
    assert telemetry.counted("jobq.refusals", jobq_refusal_reason="already_cancelled") == 1


def test_a_zombie_and_a_healed_commit(site: Site, app: JobQueue, telemetry: Telemetry) -> None:
    is_held, may_go_on = threading.Event(), threading.Event()

    @app.task
    def hold(job: Job) -> None:
        if job.attempt == 1:
            is_held.set()
            may_go_on.wait(BOUND_S)
        with job.commit(Connection) as db:
            db.execute(insert(ledger).values(job_id=job.id, charged_by=str(job.attempt)))

    job = hold.enqueue()
    with app.worker(poll_s=0.05, reconcile_s=0.05):
        assert is_held.wait(BOUND_S)
        app.database.run(elapse(app.database.store.portable, 3_600))
        job.wait(BOUND_S)
        may_go_on.set()
        good, zombie = telemetry.spans("process default", 2)
        wait_for(lambda: telemetry.counted("jobq.refusals"), "the refusal to be told")
    assert attributes(good)["jobq.fencing_token"] > attributes(zombie)["jobq.fencing_token"]
    assert zombie.status.description == "refused: already_committed"
    assert events(zombie) == ["effect refused"]
    assert [link.context for link in zombie.links] == [link.context for link in good.links]
    assert telemetry.counted("jobq.recovered", jobq_fate="retried") == 1
    ((_, waited),) = telemetry.points("jobq.waiting.duration")
    assert waited.count == 2
    ((found, took),) = telemetry.points("messaging.process.duration")
    assert (found["messaging.operation.name"], took.count) == ("process", 2)
    assert took.explicit_bounds[0] == 0.005


def test_a_batch_has_one_span_that_links_to_all(app: JobQueue, telemetry: Telemetry) -> None:
    @app.batch_task(size=10)
    def index(db: Connection, numbers: list[int]) -> None:
        for number in numbers:
            db.execute(insert(ledger).values(job_id=number, charged_by="batch"))
        if 2 in numbers:
            raise ValueError("no twos")

    jobs = app.enqueue_many(index.using(max_attempts=1).request(number) for number in range(4))
    with app.worker(poll_s=0.05):
        for job in jobs:
            job.wait(BOUND_S)
        # All four; the halves; the halves of the second.
        spans = telemetry.spans("process default", 5)
    whole = next(span for span in spans if len(span.links) == 4)
    assert attributes(whole)["messaging.batch.message_count"] == 4
    assert attributes(whole)["error.type"] == "ValueError"
    assert whole.status.status_code is StatusCode.ERROR
    assert {link.context.span_id for link in whole.links} == {
        span.context.span_id for span in telemetry.spans("create default", 4)
    }
    assert {(link.attributes or {})["messaging.message.id"] for link in whole.links} == {
        str(job.id) for job in jobs
    }
    good = [span for span in spans if span.status.status_code is StatusCode.UNSET]
    assert [events(span) for span in good] == [["effect begun", "effect committed"]] * 2
    assert telemetry.counted("jobq.attempts", jobq_outcome="committed") == 3
    assert telemetry.counted("jobq.buried") == 1


def test_a_handler_in_a_process_of_its_own_is_traced_there(
    postgres_site: Site, telemetry: Telemetry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.observability import traced

    monkeypatch.setenv(SPANS_VARIABLE, str(tmp_path / "spans"))
    counts = OpenTelemetry(trace.NoOpTracerProvider(), telemetry.meter_provider)
    with traced.app.on(postgres_site.url):
        traced.app.use(counts)
        try:
            with telemetry.tracer.start_as_current_span("request") as request:
                job = traced.charge.enqueue()
            with traced.app.worker(poll_s=0.05):
                trace_id = job.result(BOUND_S)
                wait_for(lambda: telemetry.counted("jobq.attempts"), "the attempt's end")
        finally:
            traced.app._middleware.remove(counts)
    (span,) = [json.loads(line) for line in (tmp_path / "spans").read_text().splitlines()]
    assert span["name"] == "process default"
    assert span["context"]["trace_id"] == f"0x{trace_id}"
    assert [event["name"] for event in span["events"]] == ["effect begun", "effect committed"]
    assert span["attributes"]["messaging.message.id"] == str(job.id)
    ((link,),) = [span["links"]]
    assert link["context"]["trace_id"] == f"0x{request.get_span_context().trace_id:032x}"


def test_jobs_that_nobody_traced_have_no_link(site: Site, telemetry: Telemetry) -> None:
    app = JobQueue(site.url)

    @app.task
    def handle() -> None: ...

    job = handle.enqueue()
    app.use(telemetry.middleware())
    with app.worker(poll_s=0.05):
        job.wait(BOUND_S)
        (span,) = telemetry.spans("process default")
    app.close()
    assert (span.links, span.parent) == ((), None)


def test_without_an_sdk_nothing_is_carried(site: Site) -> None:
    app = JobQueue(site.url)
    app.use(OpenTelemetry(trace.NoOpTracerProvider()))

    @app.task
    def handle(job: Job) -> dict[str, str]:
        return dict(job.headers)

    with app.worker(poll_s=0.05):
        assert handle.enqueue().result(BOUND_S) == {}
    app.close()


def test_it_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "jobq.otel")
    with pytest.raises(MissingExtra, match=r"pip install 'jobq\[otel\]'"):
        __import__("jobq.otel")

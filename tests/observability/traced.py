"""A traced app with a handler in a process of its own, which writes its spans to a file."""

from __future__ import annotations

import os
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from sqlalchemy import Connection, insert

from jobq import Job, JobQueue
from jobq.otel import OpenTelemetry
from tests.worker.charges import ledger

SPANS_VARIABLE = "JOBQ_TEST_SPANS"

app = JobQueue()
provider = TracerProvider()
if path := os.environ.get(SPANS_VARIABLE):
    provider.add_span_processor(
        SimpleSpanProcessor(
            ConsoleSpanExporter(
                out=Path(path).open("a", buffering=1),  # noqa: SIM115 - as long as the process
                formatter=lambda span: span.to_json(indent=None) + "\n",
            )
        )
    )
app.use(OpenTelemetry(provider))


@app.task(process=True)
def charge(db: Connection, job: Job) -> str:
    db.execute(insert(ledger).values(job_id=job.id, charged_by="a child"))
    return format(trace.get_current_span().get_span_context().trace_id, "032x")

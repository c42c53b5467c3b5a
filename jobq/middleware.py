"""Middleware: what a service adds around its jobs, once for all of them.

class Tenant(Middleware):
    def enqueue(self, request, headers):
        headers["tenant"] = current_tenant.get()

    @contextmanager
    def attempt(self, job):
        with tenant(job.headers["tenant"]):
            yield

app.use(Tenant())
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from jobq.errors import InvalidHeaders
from jobq.protocol.values import AttemptError, JobRequest, Recovered, RefusedReport

if TYPE_CHECKING:
    from jobq.job import Job

logger = logging.getLogger("jobq.middleware")

MAX_HEADERS_BYTES = 8 * 1024


class AttemptOutcome(StrEnum):
    """How an attempt ended, as its worker saw it."""

    COMMITTED = "committed"
    """Its effect and record are committed; or, with no effect here, the record is about to be."""
    FAILED = "failed"
    SNOOZED = "snoozed"
    INTERRUPTED = "interrupted"
    """The worker was stopped and did not wait any longer."""
    REFUSED = "refused"
    """It came too late, or its job was cancelled: it changed nothing."""


class EffectEvent(StrEnum):
    """What happened at the commit boundary of an attempt."""

    BEGUN = "begun"
    """The transaction is open and has the commit record in it: the effect may go on."""
    COMMITTED = "committed"
    REFUSED = "refused"
    """The attempt may not commit: its lease is lost, or the job has its fate."""


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """What became of an attempt."""

    outcome: AttemptOutcome
    took_s: float
    """Seconds from the handler's beginning to its end, the commit included."""
    error: AttemptError | None = None
    """What it failed with."""
    retry_delay_s: float | None = None
    """Seconds until the next attempt, when there is to be one."""
    is_dead: bool = False
    """Whether it failed and there is to be no other."""
    reason: str | None = None
    """Why it was refused, as `RefusedReport.reason` has it."""


class Middleware:
    """Override what is needed; each method does nothing by itself.

    All of it is called where the thing happens: in the thread or the task of an attempt, in the
    worker's loop. So it has to be quick, and safe to call from several threads.
    """

    def enqueue(self, request: JobRequest, headers: dict[str, str]) -> None:
        """A job is about to be enqueued here: put into `headers` what it is to carry along.

        What this raises, the caller of `enqueue` gets.
        """

    def attempt(self, job: Job) -> AbstractContextManager[None]:
        """Surround an attempt's handler, its effect transaction included.

        Left with the error that ends the attempt, if there is one. What this raises ends it too. A
        handler with a process of its own is surrounded there.
        """
        return nullcontext()

    def batch(self, jobs: Sequence[Job]) -> AbstractContextManager[None]:
        """`attempt` for a call of a batch handler."""
        return nullcontext()

    def effect(self, job: Job, event: EffectEvent) -> None:
        """Something happened at an attempt's commit boundary, inside of `attempt` or `batch`. An
        error raised here is logged."""

    def handled(self, job: Job, result: AttemptResult) -> None:
        """A handler is done, and `attempt` was left (`batch` is not yet); told in the process in
        which it ran. An error raised here is logged."""

    def attempt_ended(self, job: Job, result: AttemptResult) -> None:
        """An attempt ended; told in the worker, once. An error raised here is logged."""

    def refused(self, report: RefusedReport) -> None:
        """The database refused what an attempt had to tell. An error raised here is logged."""

    def recovered(self, recovered: Recovered) -> None:
        """This worker recovered expired leases. An error raised here is logged."""


def with_headers(middleware: Sequence[Middleware], request: JobRequest) -> JobRequest:
    """Return the request with what the middleware has it carry. Raises InvalidHeaders."""
    if not middleware:
        return request
    headers: dict[str, str] = {}
    for each in middleware:
        each.enqueue(request, headers)
    return request._replace(headers=_encoded(headers)) if headers else request


def read_headers(encoded: str | None) -> Mapping[str, str]:
    """Return what a job carries along."""
    return {} if encoded is None else json.loads(encoded)


def surrounding(middleware: Sequence[Middleware], job: Job) -> AbstractContextManager[object]:
    """All of them around an attempt, the first outermost."""
    return _all(each.attempt(job) for each in middleware) if middleware else _NOTHING


def surrounding_batch(
    middleware: Sequence[Middleware], jobs: Sequence[Job]
) -> AbstractContextManager[object]:
    return _all(each.batch(jobs) for each in middleware) if middleware else _NOTHING


def tell(middleware: Iterable[Middleware], of: Callable[[Middleware], None]) -> None:
    """Tell each of them what happened; one that fails keeps nobody from learning it."""
    for each in middleware:
        try:
            of(each)
        except Exception:
            logger.exception(
                "middleware %r failed", each, extra={"middleware": type(each).__qualname__}
            )


_NOTHING = nullcontext()


@contextmanager
def _all(managers: Iterable[AbstractContextManager[None]]) -> Iterator[None]:
    with ExitStack() as stack:
        for manager in managers:
            stack.enter_context(manager)
        yield


def _encoded(headers: Mapping[str, str]) -> str:
    for name, value in headers.items():
        if not (isinstance(name, str) and isinstance(value, str)) or "\0" in name + value:
            raise InvalidHeaders(
                f"header {name!r}: {value!r}: names and values are text without NUL characters"
            )
    try:
        encoded = json.dumps(headers, ensure_ascii=False)
        size = len(encoded.encode())
    except UnicodeEncodeError as error:
        raise InvalidHeaders(f"headers {headers!r} are not text: {error}") from error
    if size > MAX_HEADERS_BYTES:
        raise InvalidHeaders(
            f"the headers take {size} bytes, more than {MAX_HEADERS_BYTES}: carry a key, and keep "
            "the rest where it can be looked up"
        )
    return encoded

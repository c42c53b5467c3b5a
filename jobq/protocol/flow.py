"""Jobs that wait for other jobs. Pure: fates are passed in, what follows comes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from jobq.errors import InvalidOption
from jobq.protocol.states import Outcome
from jobq.protocol.values import JobRequest


class When(StrEnum):
    """When a job that waits for others is run; when it cannot be any more, it is cancelled."""

    DONE = "done"
    """All of them are done. One that is dead or cancelled cancels it."""
    ENDED = "ended"
    """All of them have ended, however they did."""
    FAILED = "failed"
    """One of them is dead or cancelled. It is cancelled when all are done."""


class Verdict(StrEnum):
    """What becomes of a waiting job."""

    RUN = "run"
    CANCEL = "cancel"
    WAIT = "wait"


def verdict(when: When, outcomes: Iterable[Outcome], *, is_last: bool) -> Verdict:
    """Decide about a job some of whose prerequisites have ended.

    `is_last`: it waits for no others. Those that ended before were decided about then.
    """
    has_failed = any(outcome is not Outcome.COMMITTED for outcome in outcomes)
    if when is When.FAILED:
        return Verdict.RUN if has_failed else Verdict.CANCEL if is_last else Verdict.WAIT
    if when is When.DONE and has_failed:
        return Verdict.CANCEL
    return Verdict.RUN if is_last else Verdict.WAIT


def when_of(when: str) -> When:
    """Return the condition of that name. Raises InvalidOption."""
    try:
        return When(when)
    except ValueError:
        raise InvalidOption(
            f"when {when!r}: use {', '.join(repr(each.value) for each in When)}"
        ) from None


Stage = JobRequest | Sequence[JobRequest]


def chain(*stages: Stage) -> list[JobRequest]:
    """Return jobs that run one after the other, for `enqueue_many`.

        app.enqueue_many(chain(fetch.request(7), [resize.request(7), scan.request(7)],
                               publish.request(7)))

    A list is a stage whose jobs run side by side; the next stage begins when all of them are done.
    When a job is dead or cancelled, those behind it are cancelled. Raises InvalidOption.
    """
    requests: list[JobRequest] = []
    before: range = range(0)
    for stage in stages:
        jobs = [stage] if isinstance(stage, JobRequest) else list(stage)
        if not jobs:
            raise InvalidOption("a stage of the chain has no jobs: leave it out")
        start = len(requests)
        for position, request in enumerate(jobs, start):
            offsets = tuple(earlier - position for earlier in before)
            requests.append(_after(request, offsets, When.DONE))
        before = range(start, len(requests))
    return requests


def group(
    jobs: Iterable[JobRequest],
    *,
    then: JobRequest | None = None,
    otherwise: JobRequest | None = None,
    finally_: JobRequest | None = None,
) -> list[JobRequest]:
    """Return jobs that run side by side, and those that follow, for `enqueue_many`.

    `then` runs once all of them are done; `otherwise` as soon as one is dead or cancelled;
    `finally_` once all have ended, however they did. The one of `then` and `otherwise` that is not
    run is cancelled. Raises InvalidOption.
    """
    requests = list(jobs)
    if not requests:
        raise InvalidOption("a group without jobs would never end: enqueue what follows by itself")
    members = range(len(requests))
    for request, when in ((then, When.DONE), (otherwise, When.FAILED), (finally_, When.ENDED)):
        if request is not None:
            position = len(requests)
            requests.append(_after(request, tuple(one - position for one in members), when))
    return requests


def _after(request: JobRequest, offsets: tuple[int, ...], when: When) -> JobRequest:
    if not offsets:
        return request
    if request.after and request.when != when:
        raise InvalidOption(
            f"a job of task {request.task!r} waits for others with when={request.when!r} already, "
            f"and here it would with {when.value!r}"
        )
    return request._replace(after=(*request.after, *offsets), when=when.value)

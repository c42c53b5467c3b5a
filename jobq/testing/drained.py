"""Running due jobs here and now."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing, closing

from jobq.client import JobQueue
from jobq.protocol.values import ClaimedJob, JobStatus
from jobq.testing.stepwise import Playing, StepwiseWorker

AT_MOST = 1_000


def drain(
    app: JobQueue,
    *,
    queues: Sequence[str] | None = None,
    raises: bool = True,
    at_most: int = AT_MOST,
) -> list[JobStatus]:
    """Run jobs until none is due, those that they enqueue too. Blocks.

    Return what became of each, in the order they ran; a job that ran twice is there twice. What is
    due later (`delay`, the backoff of a failed job, a snooze) or has no room in its limits is left:
    see `advance`. Expired leases are recovered first, as a worker would.

    - `queues`: the queues to serve, all of them when None.
    - `raises`: raise what a handler raised, after it is reported; otherwise its job is retried or
      dead, as its status says.
    - `at_most`: how many attempts to run.

    Plain handlers run in the calling thread, coroutines on an event loop of their own; in a test
    that has one, use `adrain`. Nothing bounds how long a handler takes. Raises AssertionError when
    `at_most` attempts were run and more are due; InvalidTask, NotMigrated or DatabaseUnavailable
    as a worker does.
    """
    with closing(StepwiseWorker(app)) as worker:
        return worker.play(_draining(worker, queues, raises, at_most))


async def adrain(
    app: JobQueue,
    *,
    queues: Sequence[str] | None = None,
    raises: bool = True,
    at_most: int = AT_MOST,
) -> list[JobStatus]:
    """`drain` on the running event loop; plain handlers run in threads."""
    async with aclosing(StepwiseWorker(app)) as worker:
        return await worker.aplay(_draining(worker, queues, raises, at_most))


def run_one(
    app: JobQueue, *, queues: Sequence[str] | None = None, raises: bool = True
) -> JobStatus | None:
    """Run the next due job and return what became of it, None when none is due. See `drain`."""
    with closing(StepwiseWorker(app)) as worker:
        return worker.play(_running_one(worker, queues, raises))


async def arun_one(
    app: JobQueue, *, queues: Sequence[str] | None = None, raises: bool = True
) -> JobStatus | None:
    """`run_one` on the running event loop; plain handlers run in threads."""
    async with aclosing(StepwiseWorker(app)) as worker:
        return await worker.aplay(_running_one(worker, queues, raises))


def _draining(
    worker: StepwiseWorker, queues: Sequence[str] | None, raises: bool, at_most: int
) -> Playing[list[JobStatus]]:
    worker.reconcile()
    ran: list[JobStatus] = []
    while (claimed := worker.claim(queues)) is not None:
        if len(ran) >= at_most:
            worker.release(claimed)
            raise AssertionError(
                f"{at_most} attempts were run and more jobs are due, the next of task "
                f"{claimed.task!r}: does it enqueue itself again and again? Else raise at_most"
            )
        ran.append((yield from _running(worker, claimed, raises)))
    return ran


def _running_one(
    worker: StepwiseWorker, queues: Sequence[str] | None, raises: bool
) -> Playing[JobStatus | None]:
    worker.reconcile()
    claimed = worker.claim(queues)
    return None if claimed is None else (yield from _running(worker, claimed, raises))


def _running(worker: StepwiseWorker, claimed: ClaimedJob, raises: bool) -> Playing[JobStatus]:
    attempt = worker.attempt(claimed)
    report = yield attempt
    worker.tell(report)
    if raises and attempt.raised is not None:
        raise attempt.raised
    return worker.status(claimed.lease.job_id)

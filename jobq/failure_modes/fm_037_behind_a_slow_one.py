"""FM_037: jobs wait behind one that hangs, in the hands of a worker that has no hand free."""

from __future__ import annotations

import threading
import time

from jobq.client import JobQueue
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import TASK, Shop
from jobq.failure_modes.transactions import WAIT_S, wait_until
from jobq.protocol.states import State
from jobq.worker import RunningWorker, Worker, WorkerOptions

QUICK = 300
"""Jobs before the one that hangs: the worker is used to quick ones by then."""
BEHIND = 100
AHEAD = 50
PATIENCE_S = 3.0
"""A hundred times what an idle worker takes for the jobs that wait."""
TOKENS = "SELECT token FROM jobq.commit_records"
_PAUSE_S = 0.02


def play(shop: Shop, prefetch: int | None, patience_s: float) -> Finding:
    """A runs quick jobs, then one that hangs; B has nothing to do."""
    is_hanging, go_on = threading.Event(), threading.Event()
    app = JobQueue(shop.url, schema=shop.schema)

    @app.task(name=TASK)
    def handle(number: int) -> None:
        if number == QUICK:
            is_hanging.set()
            go_on.wait(WAIT_S)

    app.enqueue_many(handle.request(number=number) for number in range(QUICK + 1 + BEHIND))
    app.close()
    of_a = WorkerOptions(concurrency=1, prefetch=prefetch)
    of_b = WorkerOptions(poll_s=_PAUSE_S, concurrency=1)
    with RunningWorker(Worker(app.tasks, app.open_database, of_a)):
        try:
            wait_until(is_hanging.is_set, "the handler to hang")
            with RunningWorker(Worker(app.tasks, app.open_database, of_b)):
                deadline_s = time.monotonic() + patience_s
                while (left := _behind(shop)) and time.monotonic() < deadline_s:
                    time.sleep(_PAUSE_S)
        finally:
            go_on.set()
    return Finding(
        is_harmed=left > 0,
        detail=f"{left} jobs waited behind one that hung, beside an idle worker"
        if left
        else "what waited behind a handler that hung went to the idle worker",
        seen={
            "left": left,
            "attempts": len(shop.sql("SELECT job_id FROM jobq.attempts")),
            "claims": max(token for (token,) in shop.sql(TOKENS)),
        },
    )


def _behind(shop: Shop) -> int:
    """How many jobs are not done, besides the one that hangs."""
    counts = shop.database.run(shop.database.store.counts())
    return counts.get(State.READY, 0) + counts.get(State.LEASED, 0) - 1


def reproduce(shop: Shop) -> Finding:
    """With a number of jobs leased ahead, and kept, whatever becomes of the handlers."""
    return play(shop, AHEAD, PATIENCE_S)


def prevent(shop: Shop) -> Finding:
    return play(shop, None, WAIT_S)


FM = FailureMode(
    id="FM_037",
    title="stuck behind a slow job, beside an idle worker",
    invariants=("liveness",),
    reproduce=reproduce,
    prevent=prevent,
)

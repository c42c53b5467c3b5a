"""FM_011: a busy worker's heartbeats starve, and a live job is taken away."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import Any

from jobq.client import JobQueue
from jobq.errors import JobqError
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import TASK, Shop
from jobq.failure_modes.transactions import WAIT_S, wait_until
from jobq.worker import RunningWorker, Worker, WorkerOptions
from jobq.worker.heartbeat import HeartbeatThread

LEASE_S = 0.9
LOOK_FOR_S = 1.5 * LEASE_S
"""Past the end of any lease that was granted when the looking began."""
STOPPED = "SELECT id FROM jobq.workers WHERE stopped_at IS NOT NULL"
_PAUSE_S = 0.02


class BeatsOnTheLoop(HeartbeatThread):
    """A task of the worker's event loop: the natural place for it in an asyncio program."""

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._beating = self._loop.create_task(self._beat_on_the_loop())

    async def _beat_on_the_loop(self) -> None:
        try:
            while True:
                with suppress(JobqError):
                    self._extend_due()
                await asyncio.sleep(self._lease_s / 6)
        finally:
            self._link.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._beating.cancel)


class BeatsOnItsLoop(Worker):
    """Nothing beats while an `async def` handler computes, or calls what blocks."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._heartbeat = BeatsOnTheLoop(
            self._database, self.id, self.options.lease_s, self._tell_from_thread
        )


class FallsSilentFirst(Worker):
    """Told to stop, it stops its heartbeats, and then waits for its handlers."""

    async def _drain(self) -> None:
        await asyncio.to_thread(self._heartbeat.stop)
        await super()._drain()


def play(shop: Shop, kind: type[Worker], *, is_draining: bool = False) -> Finding:
    """A handler takes longer than a lease, and blocks its worker's loop (or its shutdown)."""
    started, go_on = threading.Event(), threading.Event()
    app = JobQueue(shop.url, schema=shop.schema)

    def block() -> None:
        started.set()
        go_on.wait(WAIT_S)

    async def block_the_loop() -> None:
        block()

    job_id = app.task(name=TASK)(block if is_draining else block_the_loop).enqueue().id
    app.close()
    options = WorkerOptions(lease_s=LEASE_S, poll_s=_PAUSE_S, concurrency=1)
    with RunningWorker(kind(app.tasks, app.open_database, options)) as worker:
        try:
            wait_until(started.is_set, "the handler to start")
            if is_draining:
                worker.stop()
            is_taken = is_taken_away(shop, job_id)
            shop.promote()
            starts = 1 + len(shop.claim("B"))
        finally:
            go_on.set()
        if is_draining:  # leaving the block would be a second stop, and hurry it
            wait_until(lambda: bool(shop.sql(STOPPED)), "the worker to say goodbye")

    return Finding(
        is_harmed=is_taken,
        detail=f"one job, {starts} handlers at work on it at once"
        if is_taken
        else "the lease was kept for as long as the handler ran",
        seen={
            "taken": is_taken,
            "starts": starts,
            "state": shop.state(job_id),
            "ends": [attempt.end for attempt in shop.attempts(job_id)],
        },
    )


def is_taken_away(shop: Shop, job_id: int) -> bool:
    """Whether other workers recover the job, while its handler runs on."""
    deadline_s = time.monotonic() + LOOK_FOR_S
    while time.monotonic() < deadline_s:
        if job_id in shop.reconcile().retried:
            return True
        time.sleep(_PAUSE_S)
    return False


def reproduce(shop: Shop) -> Finding:
    """On a worker that sends its heartbeats from its event loop."""
    return play(shop, BeatsOnItsLoop)


def prevent(shop: Shop) -> Finding:
    return play(shop, Worker)


FM = FailureMode(
    id="FM_011",
    title="heartbeat starved by the work",
    invariants=("I6", "liveness"),
    reproduce=reproduce,
    prevent=prevent,
)

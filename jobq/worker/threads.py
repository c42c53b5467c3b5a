"""Threads for `def` handlers."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

from jobq.commit import Relay
from jobq.protocol.values import Lease
from jobq.worker.workload import Unit

Run = Callable[[Unit, Relay], Unit | None]
"""Runs an attempt to its end and returns the next for the same thread, if there is one."""
Follow = Callable[[Lease, type[Any]], Lease | None]


class HandlerThreads:
    """At most `number` threads, each started when there is no idle one.

    An executor makes a future for every call, and wakes the event loop at the end of each; that
    would cost more than a short handler. Here a thread goes from one attempt to the next.
    """

    def __init__(self, number: int, run: Run, follow: Follow) -> None:
        """`follow`: see `Relay`."""
        self._number = number
        self._run = run
        self._follow = follow
        self._submitted: queue.SimpleQueue[Unit | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        # What the loop sees of context variables, the handlers see, as with asyncio.to_thread.
        self._context = contextvars.copy_context()

    def submit(self, attempt: Unit) -> None:
        self._submitted.put(attempt)
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._number:
            # A daemon: a handler that does not end must not keep the process from ending.
            name = f"jobq-handler-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Let the threads end when they have nothing left. Does not wait for them."""
        for _ in self._threads:
            self._submitted.put(None)

    def _work(self) -> None:
        relay = Relay(self._follow)
        while (attempt := self._submitted.get()) is not None:
            following: Unit | None = attempt
            while following is not None:
                following = self._context.copy().run(self._run, following, relay)
            self._idle.release()

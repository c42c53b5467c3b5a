"""A worker inside a service, for as long as a block lasts."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType

from jobq.worker import event_loop
from jobq.worker.worker import Worker


class RunningWorker:
    """`async with` runs the worker on this event loop, `with` on a thread with its own loop."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    async def __aenter__(self) -> Worker:
        self._task = asyncio.create_task(self.worker.run(), name="jobq worker")
        # Fail here, not at the block's end, when the worker cannot start.
        started = asyncio.create_task(self.worker.started.wait())
        try:
            await asyncio.wait({self._task, started}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the block is never entered, so nobody would leave it
            self._task.cancel()
            raise
        finally:
            started.cancel()
        if self._task.done():
            self._task.result()
        return self.worker

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self.worker.stop()
        await self._task

    def __enter__(self) -> Worker:
        ready = threading.Event()

        async def run() -> None:
            running = asyncio.create_task(self.worker.run())
            started = asyncio.create_task(self.worker.started.wait())
            await asyncio.wait({running, started}, return_when=asyncio.FIRST_COMPLETED)
            started.cancel()
            if not running.done():
                ready.set()
            await running

        def main() -> None:
            try:
                event_loop.run(run())
            except BaseException as error:  # noqa: BLE001 - raised again where it can be seen
                self._error = error
            finally:
                ready.set()

        self._thread = threading.Thread(target=main, name="jobq-worker", daemon=True)
        self._thread.start()
        ready.wait()
        self._raise_error()
        return self.worker

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._thread is not None
        self.worker.stop()
        self._thread.join()
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

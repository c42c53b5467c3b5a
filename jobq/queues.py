"""The queues of a database, and what an operator does with them."""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import TYPE_CHECKING

from jobq.errors import InvalidOption
from jobq.store import pauses as steps
from jobq.store.pauses import QueueStatus
from jobq.store.step import Step
from jobq.task import check_name

if TYPE_CHECKING:
    from jobq.client import JobQueue


class Queues:
    """The queues of the app's database. Each call is a transaction of its own, and blocks."""

    def __init__(self, app: JobQueue) -> None:
        self._app = app

    def list(self) -> builtins.list[QueueStatus]:
        """Return every queue that has due jobs or is paused, by its name. Counts them all."""
        database = self._app.database
        return database.run(steps.all_queues(database.store.portable))

    def pause(self, queue: str, *, until: datetime | None = None) -> None:
        """Have no worker anywhere begin a job of the queue, until it is resumed.

        `until`: an aware datetime at which it resumes by itself. What workers hold already goes on.
        Of a queue that is paused, sets when it resumes. Raises InvalidOption.
        """
        check_name("queue", queue)
        if until is not None and until.utcoffset() is None:
            raise InvalidOption(
                f"until {until} has no time zone: pass an aware datetime, as in "
                "datetime.now(UTC) + timedelta(hours=1)"
            )
        step = steps.pause(self._app.database.store.portable, queue, until)
        details = None if until is None else f"until {until.isoformat()}"
        self._app.act("queue.pause", queue, step, details)

    def resume(self, queue: str) -> bool:
        """End the queue's pause, and wake the workers that sleep; return whether it was paused."""
        store = self._app.database.store

        def resume_and_wake() -> Step[bool]:
            was_paused = yield from steps.resume(store.portable, queue)
            yield from store.wake()
            return was_paused

        return self._app.act("queue.resume", queue, resume_and_wake())

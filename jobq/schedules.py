"""The schedules of a database, and what an operator does with them."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any, Literal

from jobq.errors import InvalidOption, ScheduleNotFound
from jobq.protocol.schedule import Missed
from jobq.protocol.values import JobRequest
from jobq.store import schedules as steps
from jobq.store.schedules import ScheduleStatus
from jobq.task import JobHandle

if TYPE_CHECKING:
    from jobq.client import JobQueue

MissedName = Missed | Literal["skip", "one", "all"]


class Schedules:
    """The periodic jobs of the queue's database. Each call is a transaction of its own, and blocks.

    Every method but `list` raises ScheduleNotFound.
    """

    def __init__(self, app: JobQueue) -> None:
        self._app = app

    def list(self) -> builtins.list[ScheduleStatus]:
        """Return every schedule, by its name."""
        return self._app.database.run(steps.all_schedules(self._portable))

    def get(self, name: str) -> ScheduleStatus:
        """Return one schedule."""
        for status in self.list():
            if status.schedule.name == name:
                return status
        raise ScheduleNotFound(f"there is no schedule {name!r} in this database")

    def edit(
        self,
        name: str,
        *,
        cron: str | None = None,
        timezone: str | None = None,
        missed: MissedName | None = None,
        request: JobRequest | None = None,
    ) -> ScheduleStatus:
        """Change a schedule; its next tick is the first after now.

        The change holds until the code declares something else. Raises InvalidOption.
        """
        changes: dict[str, Any] = {"cron": cron, "timezone": timezone, "request": request}
        changes["missed"] = None if missed is None else missed_of(missed)
        given = {key: value for key, value in changes.items() if value is not None}
        step = steps.edit(self._portable, name, **given)
        return self._app.act("schedule.edit", name, step, ", ".join(given))

    def pause(self, name: str) -> None:
        """Have it make no jobs until it is resumed."""
        self._app.act("schedule.pause", name, steps.pause(self._portable, name))

    def resume(self, name: str) -> None:
        """Have it go on with its first tick after now."""
        self._app.act("schedule.resume", name, steps.resume(self._portable, name))

    def run_now(self, name: str) -> JobHandle:
        """Enqueue its job now, beside its ticks; paused or not."""
        step = steps.run_now(self._app.database.store, name)
        job_id = self._app.act("schedule.run", name, step)
        return JobHandle(job_id, self._app)

    def delete(self, name: str) -> None:
        """Delete a schedule; its jobs stay. One that the code declares comes back with the next
        worker that starts."""
        self._app.act("schedule.delete", name, steps.remove(self._portable, name))

    @property
    def _portable(self) -> Any:
        return self._app.database.store.portable


def missed_of(missed: MissedName) -> Missed:
    """Return the policy of that name. Raises InvalidOption."""
    try:
        return Missed(missed)
    except ValueError:
        raise InvalidOption(
            f"missed {missed!r}: use {', '.join(repr(each.value) for each in Missed)}"
        ) from None

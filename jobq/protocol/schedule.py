"""When a periodic job is due: cron expressions, time zones, and ticks that nobody was there for.

What a cron expression means is cronsim's business, and with it Debian's cron's: a daily time that
the night of summer time leaves out comes when the gap ends, one that the clock shows twice comes
once, and `*` and `*/n` in the hours or minutes go by elapsed time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from jobq.errors import InvalidOption
from jobq.protocol.values import JobRequest

ON_TIME = timedelta(minutes=1)
"""A tick that is looked at within so long of its time is not missed."""


_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)


class Missed(StrEnum):
    """What becomes of ticks that passed while no worker ran."""

    SKIP = "skip"
    """Nothing: the next one comes at its time."""
    ONE = "one"
    """One job for the last of them."""
    ALL = "all"
    """A job for each, the oldest first."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A periodic job, as it is declared: see `JobQueue.schedule`. Raises InvalidOption."""

    name: str
    cron: str
    request: JobRequest
    timezone: str = "UTC"
    missed: Missed = Missed.SKIP

    def __post_init__(self) -> None:
        if not (self.name.isprintable() and 0 < len(self.name) <= 200):
            raise InvalidOption(
                f"schedule {self.name[:200]!r}: a name is 1 to 200 printable characters"
            )
        if self.request.run_at is not None or self.request.delay_s:
            raise InvalidOption(
                f"schedule {self.name!r}: its job has a run_at or a delay; the schedule says when"
            )
        if next(self.ticks_after(_ANY_TIME), None) is None:
            raise InvalidOption(f"schedule {self.name!r}: {self.cron!r} never comes")

    def ticks_after(self, moment: datetime) -> Iterator[datetime]:
        """The ticks after a moment, the soonest first, as times in UTC."""
        for tick in self._simulated(moment):
            yield tick.astimezone(UTC)

    def last_tick(self, moment: datetime) -> datetime:
        """The last tick at or before a moment that is no earlier than the first one."""
        # One minute further on: going back, cronsim begins before the moment it is given.
        backwards = self._simulated(moment + timedelta(minutes=1), reverse=True)
        return next(tick for each in backwards if (tick := each.astimezone(UTC)) <= moment)

    def _simulated(self, moment: datetime, *, reverse: bool = False) -> CronSim:
        try:
            zone = ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as error:
            raise InvalidOption(
                f"schedule {self.name!r}: there is no time zone {self.timezone!r}: use a name like "
                "'Europe/Berlin' (on systems without zones, install the package tzdata)"
            ) from error
        try:
            return CronSim(self.cron, moment.astimezone(zone), reverse=reverse)
        except CronSimError as error:
            raise InvalidOption(
                f"schedule {self.name!r}: {self.cron!r} is not a cron expression ({error}); write "
                "minute, hour, day, month, weekday, as in '30 2 * * *'"
            ) from error


@dataclass(frozen=True, slots=True)
class Ticks:
    """What is due of a schedule now."""

    due: list[datetime]
    """Ticks to make jobs for, the oldest first."""
    next_tick_at: datetime | None
    """When to look again; None if no tick comes any more."""


def ticks_due(schedule: Schedule, next_tick_at: datetime, now: datetime, limit: int) -> Ticks:
    """Decide on the ticks from `next_tick_at` to `now`, of which at most `limit` get jobs: the
    rest of them are due at once again."""
    following = next(schedule.ticks_after(now), None)
    if schedule.missed is Missed.ALL:
        passed = takewhile(lambda tick: tick <= now, schedule.ticks_after(next_tick_at))
        due = [next_tick_at, *islice(passed, limit)]
        return Ticks(due[:limit], due[limit] if len(due) > limit else following)
    last = max(next_tick_at, schedule.last_tick(now))
    is_on_time = schedule.missed is Missed.ONE or now - last <= ON_TIME
    return Ticks([last] if is_on_time else [], following)

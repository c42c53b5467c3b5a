"""Time, as a test lets it pass."""

from __future__ import annotations

import math
from datetime import timedelta

from jobq.client import JobQueue
from jobq.errors import InvalidOption
from jobq.store.elapsed import elapse


def advance(app: JobQueue, time: timedelta | float) -> None:
    """Make it be as if so much time had passed, with no worker running. Blocks.

    `time`: a timedelta or seconds. The database's clock rules in jobq, and a test cannot set it: so
    every time in jobq's tables is moved back. What was scheduled comes due, leases expire, the
    buckets of limits fill, unique keys and ended jobs get older. The times of periodic schedules
    stay, since they are those of the clock on the wall. It is one transaction; nothing is run by
    it. A worker that runs meanwhile can lose leases that it holds.

    Raises InvalidOption for less than 0 seconds.
    """
    seconds = time.total_seconds() if isinstance(time, timedelta) else float(time)
    if not 0 <= seconds < math.inf:
        raise InvalidOption(f"advance by {seconds:g} seconds: use 0 or more, and not infinity")
    database = app.database
    database.run(elapse(database.store.portable, seconds))

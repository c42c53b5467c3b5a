"""A wall clock that is wrong: libfaketime's where it is installed, else one patched in."""

from __future__ import annotations

import datetime as datetime_module
import os
import sys
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

SHIFT_VARIABLE = "JOBQ_CHAOS_CLOCK_SHIFT_S"


def shifted_environment(shift_s: int) -> dict[str, str]:
    """Return what a process needs in its environment to live `shift_s` seconds in the future."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime*.so.1"))
    if not found:
        return {SHIFT_VARIABLE: str(shift_s)}
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME": f"{shift_s:+d}s",
        # Durations are measured on the monotonic clock, which no one sets.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def shift_as_told() -> None:
    """Shift this process's wall clock as its environment asks, for Python's own eyes."""
    shift_s = int(os.environ.get(SHIFT_VARIABLE, "0"))
    if not shift_s:
        return
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + shift_s
    time.time_ns = lambda: real_ns() + shift_s * 10**9

    class AnyDatetime(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, datetime)

    class ShiftedDatetime(datetime, metaclass=AnyDatetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=shift_s)

    setattr(datetime_module, datetime.__name__, ShiftedDatetime)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "jobq" and getattr(module, "datetime", None) is datetime:
            setattr(module, datetime.__name__, ShiftedDatetime)

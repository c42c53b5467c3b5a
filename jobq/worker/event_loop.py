"""The event loop of a worker's own thread or process: uvloop's where it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import Any, TypeVar

T = TypeVar("T")

NewEventLoop = Callable[[], asyncio.AbstractEventLoop]


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, on the faster loop of the extra `uvloop` if there is one."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> NewEventLoop | None:
    if find_spec("uvloop") is None:
        return None
    import uvloop  # an extra

    factory: NewEventLoop = uvloop.new_event_loop
    return factory

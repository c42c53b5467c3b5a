"""So that jobs of a larger priority number are not left waiting for ever."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import floor

from jobq.protocol.values import HEAD, Position

LOWER_SHARE = 0.1
"""The share of claims that begin further down, while there are more jobs than can be taken."""


def begin_lower(priorities: Iterable[tuple[str, int]], draw: float) -> Mapping[str, Position]:
    """Return where a claim begins that gives those further down their turn.

    In each queue with several priorities at one that is not the first, drawn evenly by `draw`, a
    random number in [0, 1). Queues with one priority have no entry.
    """
    levels: dict[str, list[int]] = {}
    for queue, priority in priorities:
        levels.setdefault(queue, []).append(priority)
    return {
        queue: HEAD._replace(priority=lower[floor(draw * len(lower))])
        for queue, several in levels.items()
        if (lower := sorted(several)[1:])
    }

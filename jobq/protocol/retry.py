"""When to try again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jobq.errors import InvalidOption

LONGEST_DELAY_S = 10**10


def check_delay(delay_s: float) -> None:
    """Raise InvalidOption unless it is a time that both databases can add to their clock."""
    if not 0 <= delay_s < LONGEST_DELAY_S:
        raise InvalidOption(f"delay {delay_s} s: a delay is a finite time from now")


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential backoff with full jitter.

    The delay before attempt n + 1 is drawn evenly from 0 to `base_s` * 2^(n - 1) seconds, never
    more than `cap_s`. Drawing from the whole range, rather than adding a little noise to it,
    is what spreads a crowd of jobs that failed together (Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015).
    """

    base_s: float = 2.0
    cap_s: float = 3600.0

    def __post_init__(self) -> None:
        if not 0 <= self.base_s <= self.cap_s < math.inf:
            raise InvalidOption(
                f"Retry(base_s={self.base_s}, cap_s={self.cap_s}): both are finite seconds, with "
                "0 <= base_s <= cap_s"
            )

    def delay_s(self, attempt: int, draw: float, stretch: float = 1.0) -> float:
        """Return the delay in seconds after attempt number `attempt` (from 1).

        `draw` is a random number in [0, 1), passed in so that this stays a pure function. The
        range it is drawn from is `stretch` times as wide, up to the cap.
        """
        # 2.0**1024 overflows a float; the cap was passed long before the 64th attempt.
        ceiling_s = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 64) * stretch)
        return ceiling_s * draw

"""How many jobs a worker leases ahead of its handlers."""

from __future__ import annotations

AHEAD_S = 0.1
"""Work for so long, at the rate of the moment, waits in the worker."""
MOST = 500
"""More in one claim saves nothing any more; see docs/benchmarks.md."""
WINDOW_S = 0.02
"""The rate is taken over at least so long."""
STUCK_S = 1.0
"""What no handler has come for in ten times as long as it was to wait goes back to its queue."""


class Prefetch:
    """As many as the handlers are about to need: a claim for each job would cost more than the job
    when jobs are short, and jobs that wait in one worker's hands while another is idle are late
    when they are long. So it follows the rate at which jobs end: from none to as many as there are
    handlers, up by doubling, down at once.

    `fixed` turns that off; `gathers`, where batches are made of what waits, lets as many wait as
    there are handlers, however slow they are. Times in seconds, on any clock.
    """

    def __init__(
        self, concurrency: int, fixed: int | None, now_s: float, *, gathers: bool = False
    ) -> None:
        self._least = concurrency if gathers else 0
        self.ahead = self._least if fixed is None else fixed
        self.gives_back = fixed is None and not gathers
        """Whether what waits too long is not meant to."""
        self._is_fixed = fixed is not None
        self._first_step = concurrency
        self._ended = 0
        self._since_s = now_s

    def stall(self) -> None:
        """The handlers hang: nothing is leased ahead until they have a rate again."""
        self.ahead = 0

    def observe(self, ended: int, now_s: float) -> None:
        """So many attempts have ended since the last call."""
        self._ended += ended
        elapsed_s = now_s - self._since_s
        if self._is_fixed or elapsed_s < WINDOW_S:
            return
        wanted = round(self._ended / elapsed_s * AHEAD_S)
        most = min(max(2 * self.ahead, self._first_step), MOST)
        self.ahead = max(self._least, min(wanted, most))
        self._ended = 0
        self._since_s = now_s

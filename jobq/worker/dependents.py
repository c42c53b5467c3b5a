"""How a worker sees to the jobs that wait for other jobs."""

from __future__ import annotations

from collections.abc import Sequence

from jobq.store.base import Store
from jobq.store.flow import release_after, sweep
from jobq.store.step import Step


class Dependents:
    """What waits for the jobs that end here is released with their report; a sweep finds the rest:
    what waited for jobs that died, were cancelled, or ended with a worker that crashed.

    Where no job waits for another the sweep is one look into an empty table, twice a second.
    """

    def __init__(self, store: Store) -> None:
        self._portable = store.portable
        self._after = 0
        self.has_any = False
        """Whether the last sweep saw that there are jobs which wait for others."""

    def sweep(self) -> Step[int]:
        """Release what waits in the next part of the dependencies; return how many went on."""
        released, after = yield from sweep(self._portable, self._after)
        self.has_any = after is not None
        self._after = after or 0
        return released

    def release(self, ended: Sequence[int]) -> Step[int]:
        """Release what waited for these jobs; return how many went on."""
        return (yield from release_after(self._portable, ended))

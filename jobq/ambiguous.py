"""Ambiguous jobs, and a person's decisions about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from jobq.errors import InvalidOption, JobNotFound
from jobq.protocol.outside import AmbiguousJob, Resolution
from jobq.store.ambiguous import ambiguous_jobs, resolve

if TYPE_CHECKING:
    from jobq.client import JobQueue


class AmbiguousJobs:
    """The jobs of tasks with `outside_effects="ask"` of which nobody knows what they did."""

    def __init__(self, app: JobQueue) -> None:
        self._app = app

    def list(self, *, after: int = 0, limit: int = 100) -> Sequence[AmbiguousJob]:
        """Return up to `limit` of them by their ids, from the one after `after` on. Blocks."""
        database = self._app.database
        return database.run(ambiguous_jobs(database.store.portable, after, limit))

    def resolve(
        self, job: AmbiguousJob, resolution: Resolution | Literal["done", "retry", "bury"]
    ) -> bool:
        """Decide about a job that `list` showed: return whether the decision was taken. Blocks.

        `done`: it is done, and nothing more of it runs. `retry`: it is run again, soon, and the
        attempt counts as not spent. `bury`: it is dead. False when it was not taken: somebody else
        decided before, or cancelled the job. A decision holds for the attempt that was looked at;
        if the job was retried and is ambiguous anew, it changes nothing.

        Raises InvalidOption; JobNotFound when the job was pruned.
        """
        try:
            decided = Resolution(resolution)
        except ValueError:
            raise InvalidOption(
                f"resolution {resolution!r}: use {', '.join(map(repr, map(str, Resolution)))}"
            ) from None
        database = self._app.database
        step = resolve(database.store.portable, job, decided)
        if self._app.act("job.resolve", job.id, step, decided.value):
            return True
        if database.run(database.store.job(job.id)) is None:
            raise JobNotFound(f"there is no job {job.id} in this database")
        return False

"""Where the next claim begins to look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jobq.protocol.values import ClaimedJob, Position

HIDDEN_S = 1.0
"""No job that is due is passed over for longer, in seconds, by a worker that goes on claiming."""
SHARE = 0.1
"""The share of a worker's time that may go into looking from the head of the line."""


class ClaimCursor:
    """Spares a worker the way past the rows that were claimed before.

    A claimed row is dead, but for as long as any snapshot is older than the claim (a backup, a
    long query, a replica's feedback) nothing may remove it from the index, and a claim that begins
    at the head steps over all of them. So a claim begins where the one before it ended.

    Jobs can come to stand before that: a late commit, a higher priority, a job that was given back
    or promoted. Every now and then a claim therefore looks from the head: as often as can be had
    for a tenth of the time, and at least every `HIDDEN_S`. While that is cheap, which is always but
    under such a snapshot, it is nearly every claim.
    """

    def __init__(self) -> None:
        self._since: dict[str, Position] = {}
        self._next_from_head_s = 0.0

    def is_at_head(self, now_s: float) -> bool:
        """Whether a claim that begins now looks from the head. Times in seconds, on any clock."""
        return now_s >= self._next_from_head_s

    def until_head_s(self, now_s: float) -> float:
        """How long it is until a claim looks from the head: the pause of a worker that found
        nothing further on."""
        return max(0.0, self._next_from_head_s - now_s)

    def since(self, now_s: float) -> Mapping[str, Position]:
        """Return where a claim that begins now looks from, for each queue with a position."""
        return {} if self.is_at_head(now_s) else dict(self._since)

    def advance(self, claimed: Iterable[ClaimedJob], began_s: float, ended_s: float) -> None:
        """A claim that began and ended then has returned these jobs, in their order."""
        if self.is_at_head(began_s):
            self._since.clear()
            pause_s = (ended_s - began_s) * (1 / SHARE - 1)
            self._next_from_head_s = ended_s + min(pause_s, HIDDEN_S)
        for job in claimed:
            self._since[job.queue] = Position(job.priority, job.due_at, job.lease.job_id)

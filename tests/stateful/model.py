"""What the queue is, without a database: one record for each job, and one rule for each step."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from jobq.protocol.states import Outcome
from jobq.protocol.values import Lease

SCHEDULED, READY, LEASED = "scheduled", "ready", "leases"


@dataclass
class ModelJob:
    id: int
    max_attempts: int
    place: str | None = READY
    is_due: bool = True
    attempts: int = 0
    token: int = 0
    is_expired: bool = False
    fate: Outcome | None = None
    fate_token: int = 0
    charges: int = 0
    is_pruned: bool = False

    def holds(self, lease: Lease) -> bool:
        return self.place == LEASED and self.token == lease.token

    def is_own_commit(self, lease: Lease) -> bool:
        return self.fate is Outcome.COMMITTED and self.fate_token == lease.token

    def decide(self, fate: Outcome) -> None:
        assert self.fate is None, "a fate is never replaced"
        self.fate, self.fate_token = fate, self.token

    def retry_or_bury(self, delay_s: float | None) -> None:
        """The attempt is over. Where the fate is known, only the lease goes."""
        self.place = None
        if self.fate is not None:
            return
        if delay_s is None or self.attempts >= self.max_attempts:
            self.decide(Outcome.DEAD)
        else:
            self.place, self.is_due = SCHEDULED, delay_s == 0


@dataclass
class Model:
    jobs: dict[int, ModelJob] = field(default_factory=dict)

    def job(self, lease: Lease) -> ModelJob:
        return self.jobs[lease.job_id]

    def alive(self) -> list[ModelJob]:
        return [job for job in self.jobs.values() if not job.is_pruned]

    def in_place(self, place: str) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.place == place]

    def enqueue(self, job_id: int, max_attempts: int, *, is_due: bool) -> None:
        place = READY if is_due else SCHEDULED
        self.jobs[job_id] = ModelJob(job_id, max_attempts, place, is_due)

    def promote(self) -> int:
        due = [job for job in self.in_place(SCHEDULED) if job.is_due]
        for job in due:
            job.place = READY
        return len(due)

    def claim(self, job_id: int) -> Lease:
        job = self.jobs[job_id]
        assert job.place == READY
        job.place, job.is_expired = LEASED, False
        job.attempts += 1
        job.token += 1
        return Lease(job_id, job.token)

    def charge(self, lease: Lease) -> bool:
        """Whether the effect and its record are committed."""
        job = self.job(lease)
        if not job.holds(lease) or job.fate is not None:
            return False
        job.decide(Outcome.COMMITTED)
        job.charges += 1
        return True

    def complete(self, leases: Iterable[Lease]) -> set[Lease]:
        """Return the refused."""
        refused = set()
        for lease in leases:
            job = self.job(lease)
            if job.holds(lease):
                job.place = None
                if job.fate is None:
                    job.decide(Outcome.COMMITTED)
            if not job.is_own_commit(lease):
                refused.add(lease)
        return refused

    def fail(self, leases: Collection[Lease], delay_s: float | None) -> set[Lease]:
        """Return the refused. A commit or burial with the lease's token is the attempt's own."""
        refused = set()
        for lease in leases:
            job = self.job(lease)
            is_own = job.fate_token == lease.token and job.fate is not Outcome.CANCELLED
            if (not job.holds(lease) or job.fate is not None) and not is_own:
                refused.add(lease)
            if job.holds(lease):
                job.retry_or_bury(delay_s)
        return refused

    def release(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            job = self.job(lease)
            if not job.holds(lease):
                continue
            job.place = None
            if job.fate is None:
                job.place = READY
                job.attempts -= 1

    def heartbeat(self, leases: Iterable[Lease]) -> tuple[set[Lease], set[Lease]]:
        """Return the lost and the cancelled."""
        lost, cancelled = set(), set()
        for lease in leases:
            job = self.job(lease)
            if not job.holds(lease):
                lost.add(lease)
                continue
            job.is_expired = False
            if job.fate is Outcome.CANCELLED:
                cancelled.add(lease)
        return lost, cancelled

    def finalize(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            job = self.job(lease)
            if job.place == LEASED and job.fate is not None:
                job.place = None

    def expire(self, lease: Lease) -> None:
        if self.job(lease).holds(lease):
            self.job(lease).is_expired = True

    def reconcile(self, delay_s: float) -> tuple[set[int], set[int], set[int]]:
        """Return the healed, the retried and the dead."""
        healed: set[int] = set()
        retried: set[int] = set()
        dead: set[int] = set()
        for job in self.in_place(LEASED):
            if not job.is_expired:
                continue
            had_fate = job.fate is not None
            job.retry_or_bury(delay_s)
            kind = healed if had_fate else dead if job.fate is not None else retried
            kind.add(job.id)
        return healed, retried, dead

    def prune(self) -> int:
        """Every job that has ended goes; what it charged stays, and so do its zombies."""
        over = [job for job in self.alive() if job.place is None]
        for job in over:
            job.is_pruned, job.fate, job.fate_token = True, None, -1
        return len(over)

    def cancel(self, job_id: int) -> bool:
        job = self.jobs[job_id]
        if job.fate is not None:
            return False
        job.decide(Outcome.CANCELLED)
        if job.place != LEASED:
            job.place = None
        return True

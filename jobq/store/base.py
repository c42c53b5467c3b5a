"""The `Store`: the steps of the protocol, in the order a job meets them.

What decides is written here once, for both backends; each backend is one module with its SQL
beside the statement that runs it. Every step that ends an attempt locks the lease first and
looks for the commit record in a later statement: until the lock is held a commit may still be
under way, and a look from before it (a NOT EXISTS in the locking statement, say) would answer
from a snapshot in which that commit had not happened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from jobq.errors import AlreadyCommitted, JobNotFound, JobqError, LeaseLost, Refusal
from jobq.protocol.decisions import EXPIRED, Ending, ending_of, recovered
from jobq.protocol.retention import WORKERS_KEPT_S, Pruned, RetentionPolicy, WalkedJob
from jobq.protocol.states import AttemptEnd, Outcome, Stage, State
from jobq.protocol.values import (
    Claim,
    ClaimedJob,
    EndedAttempt,
    Exchanged,
    FailedAttempt,
    Heartbeat,
    JobRequest,
    JobStatus,
    Lease,
    LeasedAttempt,
    Position,
    Record,
    Recorded,
    Recovered,
    RefusedReport,
    Reported,
)
from jobq.store.ambiguous import park
from jobq.store.apart import expired_leases
from jobq.store.deadlines import forget_deadlines
from jobq.store.flow import waited_for
from jobq.store.portable import Portable
from jobq.store.progress import forget_progress
from jobq.store.side_places import leave_side_place
from jobq.store.step import Step
from jobq.store.unique import forget_keys

RetryDelay = Callable[[LeasedAttempt], float]
"""Seconds until the next attempt of a job whose lease expired."""

NOWHERE: Mapping[str, Position] = {}
NOTHING = Claim(worker="", queues=(), tasks=(), limit=0, lease_s=0.0)

LISTEN_AGAIN_S = 600.0
"""A worker that listens says so again after so long; it is believed for twice that."""

# A job that moves between two looks is found by the next; this many misses mean torn rows.
MAX_CHASE = 100


class Store(ABC):
    """The protocol's steps on one backend and one shard. A step runs in one transaction."""

    shard: int
    portable: Portable
    """For the statements that are the same on both backends."""

    # -- a job's way in

    @abstractmethod
    def enqueue(self, requests: Sequence[JobRequest], *, is_alone: bool = False) -> Step[list[int]]:
        """Write the jobs; return their ids, in the order of the requests.

        `is_alone`: the caller's step does nothing else.
        """

    def enqueue_by_copy(self, requests: Sequence[JobRequest]) -> Step[list[int]]:
        """`enqueue` for very many, where the database has a faster way in."""
        return (yield from self.enqueue(requests))

    @abstractmethod
    def enqueue_apart(self, requests: Sequence[JobRequest]) -> Step[list[int]]:
        """Write the jobs and put them in no place: the caller does, in the same transaction."""

    @abstractmethod
    def promote(self, limit: int) -> Step[int]:
        """Move up to `limit` due jobs from `scheduled` to `ready`; return how many moved."""

    @abstractmethod
    def promote_those(self, job_ids: Sequence[int]) -> Step[int]:
        """Move those of these jobs that are due; return how many moved."""

    # -- an attempt

    @abstractmethod
    def ready_queues(self) -> Step[list[str]]:
        """Return the queues that have ready jobs."""

    def claim(
        self,
        *,
        worker: str,
        queues: Sequence[str],
        tasks: Sequence[str],
        limit: int,
        lease_s: float,
        since: Mapping[str, Position] = NOWHERE,
    ) -> Step[list[ClaimedJob]]:
        """Lease up to `limit` ready jobs whose task is one of `tasks`.

        Queues are served in the order given; within one, by priority (smaller first), then by
        when the job became due. Each claim counts as an attempt. A queue that `since` names is
        looked through from that position on, where that saves the way to it.
        """
        return (yield from self.claim_those(Claim(worker, queues, tasks, limit, lease_s, since)))

    def claim_those(self, claim: Claim) -> Step[list[ClaimedJob]]:
        """`claim`, which may name the jobs that are wanted."""
        return (yield from self._exchange((), (), claim)).claimed

    @abstractmethod
    def ready_priorities(self, queues: Sequence[str]) -> Step[list[tuple[str, int]]]:
        """Return the priorities of ready jobs in these queues, each queue's in their order."""

    @abstractmethod
    def unknown_tasks(self, *, queues: Sequence[str], tasks: Sequence[str]) -> Step[list[str]]:
        """Return tasks of ready jobs that are not among `tasks`."""

    def heartbeat(
        self, worker: str, leases: Sequence[Lease], lease_s: float, about: str | None = None
    ) -> Step[Heartbeat]:
        """Extend the leases to `lease_s` seconds from now; say which are lost or cancelled.

        `about`: what the worker says of itself, kept from its first heartbeat.
        """
        yield from self._see_worker(worker, about)
        if not leases:
            return Heartbeat(frozenset(), frozenset())
        yield from self._extend(leases, lease_s)
        held = yield from self._held(leases)
        records = yield from self._records(leases)
        cancelled = {job_id for job_id, record in records.items() if record.is_cancelled}
        return Heartbeat(
            lost=frozenset(leases) - held,
            cancelled=frozenset(lease for lease in held if lease.job_id in cancelled),
        )

    def commit_record(self, lease: Lease) -> Step[Recorded]:
        """Record the job as committed, in the transaction that is about to apply its effect.

        The COMMITTED boundary. The record is joined to the live lease, and only then inserted
        under its unique key. Raises LeaseLost when the lease is gone, AlreadyCommitted when
        the job has its fate.
        """
        recorded = yield from self._insert_record(lease)
        if recorded is not None:
            return recorded
        raise _refusal(lease, (yield from self._records([lease])).get(lease.job_id))

    def commit_records(
        self, leases: Sequence[Lease]
    ) -> Step[tuple[list[Recorded], dict[Lease, Refusal]]]:
        """`commit_record` for the jobs of a batch, which share their effect's transaction.

        Return what was recorded, and why the others were not: those change nothing.
        """
        recorded = yield from self._insert_records(leases)
        refused = sorted(set(leases) - {one.lease for one in recorded})
        if not refused:
            return recorded, {}
        records = yield from self._records(refused)
        return recorded, {lease: _refusal(lease, records.get(lease.job_id)) for lease in refused}

    @abstractmethod
    def confirm_record(self, recorded: Recorded) -> Step[bool]:
        """Return whether the record was written by the very transaction that asks."""

    @abstractmethod
    def record_results(self, results: Mapping[int, str]) -> Step[None]:
        """Put results, as JSON by job, into the records that this very transaction writes."""

    def settle(self, lease: Lease) -> Step[bool]:
        """Return whether this attempt's commit took place, after one whose answer was lost.

        Locking the lease waits for the old connection's transaction to end, so the answer is
        final. A token is not enough to know the record by: when the attempt was buried or its
        job cancelled meanwhile, that record bears it too. Raises JobNotFound when the job was
        pruned with its record meanwhile: then nobody knows any more, and nobody guesses.
        """
        yield from self._lock([lease])
        record = (yield from self._records([lease])).get(lease.job_id)
        if record is None:
            # Asked second: a job that is still there had not been pruned when its record was
            # looked for.
            yield from self._has_fate(lease.job_id)
        return record == _commit_of(lease)

    def complete(self, leases: Sequence[Lease]) -> Step[list[RefusedReport]]:
        """Record and finalize jobs that have no effect in this database, as a group."""
        exchanged = yield from self._exchange(leases, (), NOTHING)
        return (yield from self.refusals(exchanged.unrecorded))

    def finalize(self, leases: Sequence[Lease]) -> Step[None]:
        """COMMITTED becomes DONE: remove the leases of jobs whose record exists."""
        yield from self._exchange((), leases, NOTHING)

    def exchange(
        self,
        returned: Sequence[Lease],
        committed: Sequence[Lease],
        claim: Claim,
        *,
        is_alone: bool = True,
    ) -> Step[Exchanged]:
        """`complete`, `finalize` and `claim` in one: a worker's way to the next jobs.

        When it is alone in its transaction that is, on PostgreSQL, one statement and one round
        trip. What was returned and is found unrecorded is for `refusals` to explain.
        """
        return self._exchange(returned, committed, claim, is_whole=is_alone)

    def refusals(self, unrecorded: Sequence[Lease]) -> Step[list[RefusedReport]]:
        """Explain why these returned attempts wrote no record. One that finds its own had told
        of it before, and the answer was lost."""
        if not unrecorded:
            return []
        records = yield from self._records(unrecorded)
        return [
            RefusedReport(lease, Stage.COMMIT, records.get(lease.job_id))
            for lease in unrecorded
            if records.get(lease.job_id) != _commit_of(lease)
        ]

    def fail(self, failures: Sequence[FailedAttempt]) -> Step[Reported]:
        """End failed attempts: to `scheduled` for another, or dead. A lost lease or a recorded
        fate refuses the report."""
        reported = {failure.lease: failure for failure in failures}
        leases = list(reported)
        locked = yield from self._lock(leases, skip_locked=True)
        records = yield from self._records(leases)
        yield from self._conclude(
            [
                ending_of(
                    attempt,
                    records.get(attempt.lease.job_id),
                    end=reported[attempt.lease].end,
                    error=reported[attempt.lease].error,
                    retry_delay_s=reported[attempt.lease].retry_delay_s,
                )
                for attempt in locked
            ]
        )
        missing = frozenset(leases) - {attempt.lease for attempt in locked}
        busy = (yield from self._held(list(missing))) if missing else frozenset()
        return Reported(
            refused=tuple(
                RefusedReport(lease, Stage.FAIL, records.get(lease.job_id))
                for lease in leases
                if (lease in missing - busy or lease.job_id in records)
                and not _is_own(records.get(lease.job_id), lease)
            ),
            busy=busy,
        )

    def release(self, leases: Sequence[Lease]) -> Step[None]:
        """Give back jobs whose handler never started: same place in line, no attempt spent."""
        locked = yield from self._lock(leases)
        yield from self._release([attempt.lease for attempt in locked])

    # -- waiting for jobs

    @abstractmethod
    def listen(self, worker: str, queues: Sequence[str] | None) -> Step[None]:
        """Have enqueues into these queues (None: into any) notify. Whoever listens looks again
        afterwards: what was enqueued before could not know."""

    @abstractmethod
    def unlisten(self, worker: str) -> Step[None]:
        """Have nobody notify any more on this worker's account."""

    @abstractmethod
    def wake(self) -> Step[None]:
        """Have the workers that sleep look for jobs."""

    # -- recovery

    def reconcile(self, limit: int, retry_delay: RetryDelay) -> Step[Recovered]:
        """Recover up to `limit` expired leases: finalize the committed, retry or bury the rest.

        Safe to run anywhere, any number at once, with no leader.
        """
        return (yield from self._recover((yield from self._lock_expired(limit)), retry_delay))

    def reconcile_those(self, leases: Sequence[Lease], retry_delay: RetryDelay) -> Step[Recovered]:
        """`reconcile` for those of these leases that have expired."""
        locked = yield from self._lock(leases, skip_locked=True)
        # Asked when the locks are held: no heartbeat can come in between.
        job_ids = [attempt.lease.job_id for attempt in locked]
        expired = frozenset((yield from expired_leases(self.portable, len(job_ids), job_ids)))
        over = [attempt for attempt in locked if attempt.lease in expired]
        return (yield from self._recover(over, retry_delay))

    def _recover(
        self, expired: Sequence[LeasedAttempt], retry_delay: RetryDelay
    ) -> Step[Recovered]:
        if not expired:
            return Recovered()
        records = yield from self._records([attempt.lease for attempt in expired])
        endings = [
            ending_of(
                attempt,
                records.get(attempt.lease.job_id),
                end=AttemptEnd.EXPIRED,
                error=EXPIRED,
                retry_delay_s=retry_delay(attempt),
            )
            for attempt in expired
        ]
        yield from self._conclude(endings)
        return recovered(endings)

    def _conclude(self, endings: Sequence[Ending]) -> Step[None]:
        if any(ending.is_parked for ending in endings):
            yield from park(self.portable, [one.attempt for one in endings if one.is_parked])
        yield from self._end(endings)

    def cancel(self, job_id: int) -> Step[bool]:
        """Record the job's fate as cancelled; return whether it was still open.

        The job may move while we look for it: hold its place first, whichever it is, and
        record its fate then, the order in which every other step takes its locks. A running
        attempt is refused at its commit. Raises JobNotFound.
        """
        for _ in range(MAX_CHASE):
            if (yield from self._has_fate(job_id)):
                return False
            token = yield from self._hold_place(job_id)
            if token is None:
                token = yield from leave_side_place(self.portable, job_id)
            if token is not None:
                return (yield from self._insert_cancelled(Lease(job_id, token)))
        raise JobqError(
            f"job {job_id} is in no place and has no fate: its rows were changed by other means "
            "than jobq's"
        )

    # -- the end of it

    def prune(
        self, policy: RetentionPolicy, *, after: int = 0, limit: int, is_dry_run: bool = False
    ) -> Step[Pruned]:
        """Delete the jobs that were kept for their time, each with its record and its history.

        Looks at up to `limit` jobs in the order of their ids, from the one after `after` on. With
        `is_dry_run` they are counted and left. Safe to run anywhere, any number at once.

        A job that is over its time has its record and is in no other place, or has a lease still
        to be finalized: that one is left. The walk takes no locks, since what it finds can only
        get older; the jobs that go are locked and looked at again.
        """
        shortest_s = policy.shortest_s
        if shortest_s is None:
            return Pruned({}, 0, None)
        walked = yield from self._walk(after, limit)
        outcomes = {
            job.id: job.outcome for job in walked if job.outcome is not None and policy.is_over(job)
        }
        gone = yield from self._prunable(list(outcomes), is_locked=not is_dry_run)
        if gone and not is_dry_run:
            # A dead job may have been retried between the snapshot of that look and its lock.
            gone = yield from self._prunable(gone, is_locked=False)
            needed = yield from waited_for(self.portable, gone)
            gone = [job_id for job_id in gone if job_id not in needed]
        if gone and not is_dry_run:
            yield from self._delete_jobs(gone)
            yield from forget_keys(self.portable, gone)
            yield from forget_progress(self.portable, gone)
            yield from forget_deadlines(self.portable, gone)
        counts = dict.fromkeys(Outcome, 0)
        for job_id in gone:
            counts[outcomes[job_id]] += 1
        is_last = len(walked) < limit or walked[-1].age_s < shortest_s
        return Pruned(counts, len(walked), None if is_last else walked[-1].id)

    @abstractmethod
    def prune_workers(
        self, kept_s: float = WORKERS_KEPT_S, *, is_dry_run: bool = False
    ) -> Step[int]:
        """Delete the workers that were last seen `kept_s` seconds ago or longer; return how many.

        With `is_dry_run` they are counted and left.
        """

    # -- the record of it

    @abstractmethod
    def record_refusals(self, worker: str, refused: Sequence[RefusedReport]) -> Step[None]:
        """Write refused reports to the audit table; of jobs that were pruned nothing is kept."""

    @abstractmethod
    def stop_worker(self, worker: str) -> Step[None]:
        """Note that the worker said goodbye."""

    @abstractmethod
    def job(self, job_id: int) -> Step[JobStatus | None]:
        """Return the job and the place it is in, or None when there is no such job."""

    def job_without_contents(self, job_id: int) -> Step[JobStatus | None]:
        """`job` for a database role that may read neither arguments nor results."""
        return (yield from self.job(job_id))

    @abstractmethod
    def attempts(self, job_id: int) -> Step[list[EndedAttempt]]:
        """Return the job's ended attempts, oldest first."""

    @abstractmethod
    def counts(self) -> Step[dict[State, int]]:
        """Return how many jobs are in each state."""

    @abstractmethod
    def revision(self) -> Step[str | None]:
        """Return the schema's migration, or None when the database was never migrated."""

    # -- what the steps above are made of, one statement or a few each

    @abstractmethod
    def _see_worker(self, worker: str, about: str | None) -> Step[None]: ...

    @abstractmethod
    def _extend(self, leases: Sequence[Lease], lease_s: float) -> Step[None]: ...

    @abstractmethod
    def _held(self, leases: Sequence[Lease]) -> Step[frozenset[Lease]]:
        """Return which of the leases exist, locked or not."""

    @abstractmethod
    def _insert_record(self, lease: Lease) -> Step[Recorded | None]:
        """Return None when there is no such lease, or the job has its fate."""

    @abstractmethod
    def _insert_records(self, leases: Sequence[Lease]) -> Step[list[Recorded]]:
        """The same for several, in the order of their jobs; those refused are left out."""

    @abstractmethod
    def _records(self, leases: Sequence[Lease]) -> Step[dict[int, Record]]: ...

    @abstractmethod
    def _lock(
        self, leases: Sequence[Lease], *, skip_locked: bool = False
    ) -> Step[list[LeasedAttempt]]:
        """Lock the leases that still exist, in the order of their job ids."""

    @abstractmethod
    def _lock_expired(self, limit: int) -> Step[list[LeasedAttempt]]: ...

    @abstractmethod
    def _exchange(
        self,
        returned: Sequence[Lease],
        committed: Sequence[Lease],
        claim: Claim,
        *,
        is_whole: bool = False,
    ) -> Step[Exchanged]:
        """Record and finalize `returned`, finalize `committed`, and lease what is claimed."""

    @abstractmethod
    def _end(self, endings: Sequence[Ending]) -> Step[None]: ...

    @abstractmethod
    def _release(self, leases: Sequence[Lease]) -> Step[None]: ...

    @abstractmethod
    def _has_fate(self, job_id: int) -> Step[bool]:
        """Raises JobNotFound."""

    @abstractmethod
    def _hold_place(self, job_id: int) -> Step[int | None]:
        """Take the job out of `scheduled` or `ready`, or share-lock its lease.

        Return its last lease token, or None when it was caught moving.
        """

    @abstractmethod
    def _insert_cancelled(self, lease: Lease) -> Step[bool]: ...

    @abstractmethod
    def _walk(self, after: int, limit: int) -> Step[list[WalkedJob]]:
        """Return the next jobs by id, whatever their state, with their ages."""

    @abstractmethod
    def _prunable(self, job_ids: Sequence[int], *, is_locked: bool) -> Step[list[int]]:
        """Return those of the jobs that have a record of `MIN_AGE_S` or older, and no lease.

        With `is_locked` they are locked; those that another session has locked are left out.
        """

    @abstractmethod
    def _delete_jobs(self, job_ids: Sequence[int]) -> Step[None]:
        """Delete the jobs, their records, attempts, refusals and steps."""


def _refusal(lease: Lease, record: Record | None) -> Refusal:
    if record is None:
        return LeaseLost(lease.job_id, lease.token)
    return AlreadyCommitted(lease.job_id, lease.token, record.outcome)


def _commit_of(lease: Lease) -> Record:
    """The record that the attempt's own commit writes."""
    return Record(lease.token, Outcome.COMMITTED)


def _is_own(record: Record | None, lease: Lease) -> bool:
    """Whether the report found its own record: it is being repeated after a lost answer.

    A cancelled job's record bears the token of the attempt that it stopped, which never wrote it.
    """
    return record is not None and record.token == lease.token and not record.is_cancelled


def job_not_found(job_id: int) -> JobNotFound:
    return JobNotFound(f"there is no job {job_id} in this database")

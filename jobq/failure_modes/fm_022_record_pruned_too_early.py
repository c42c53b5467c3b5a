"""FM_022: what was decided about a job is deleted while somebody still has to be told."""

from __future__ import annotations

from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.weakened import by
from jobq.protocol.retention import HOUR_S, Pruned, Retention, RetentionPolicy
from jobq.protocol.states import Outcome
from jobq.protocol.values import Lease
from jobq.store.base import Store
from jobq.store.step import Step

HOURLY = RetentionPolicy(otherwise=Retention(HOUR_S, HOUR_S, HOUR_S))
AGE_S = 2 * HOUR_S


class ByAgeAlone(Store):
    """What is missing: the question whether the job is over. DELETE ... WHERE created_at < ..."""

    def prune(
        self, policy: RetentionPolicy, *, after: int = 0, limit: int, is_dry_run: bool = False
    ) -> Step[Pruned]:
        walked = yield from self._walk(after, limit)
        old = [job for job in walked if job.age_s >= (policy.shortest_s or 0.0)]
        yield from self._delete_jobs([job.id for job in old])
        counts = {outcome: sum(job.outcome is outcome for job in old) for outcome in Outcome}
        return Pruned(counts, len(walked), None)


weaken = by(ByAgeAlone)


def play(shop: Shop) -> Finding:
    """Three old jobs that are not over, a pruner, and then what each of them was waiting for."""
    committed = _committed(shop)
    cancelled = _cancelled(shop)
    retried = _failed(shop)
    jobs = (committed.job_id, cancelled.job_id, retried)
    shop.grow_old(*jobs, age_s=AGE_S)
    shop.prune(HOURLY)

    commit(shop, committed, "A")  # the answer to its COMMIT was lost, and it asks again
    commit(shop, cancelled, "C")  # it was frozen, and does not know of the cancellation
    past = "0" if shop.is_sqlite else "'2000-01-01'"
    shop.sql(f"UPDATE jobq.scheduled SET run_at = {past}")
    shop.promote()
    for claimed in shop.claim("B"):
        commit(shop, claimed.lease, "B")
        shop.finalize(claimed.lease)

    charged = {job_id: charges_of(shop, job_id) for job_id in jobs}
    shop.finalize(committed)
    shop.finalize(cancelled)
    shop.grow_old(*jobs, age_s=AGE_S)
    in_the_end = shop.prune(HOURLY).total
    harms = [
        told
        for is_so, told in (
            (charged[committed.job_id] > 1, "a committed job charged a second time"),
            (charged[cancelled.job_id] > 0, "a cancelled one charged"),
            (charged[retried] == 0, "one with a retry to come never charged"),
        )
        if is_so
    ]
    return Finding(
        is_harmed=bool(harms),
        detail="; ".join(harms)
        or f"none went too early, and {in_the_end} went when they were over",
        seen={
            "committed": charged[committed.job_id],
            "cancelled": charged[cancelled.job_id],
            "retried": charged[retried],
            "in_the_end": in_the_end,
        },
    )


def _committed(shop: Shop) -> Lease:
    """COMMITTED, and not yet DONE: charged and recorded, and the lease still there."""
    shop.enqueue()
    lease = shop.claim_one("A")
    commit(shop, lease, "A")
    return lease


def _cancelled(shop: Shop) -> Lease:
    """Cancelled, while an attempt of it stands still."""
    job_id = shop.enqueue()
    lease = shop.claim_one("C")
    shop.cancel(job_id)
    return lease


def _failed(shop: Shop) -> int:
    """Failed once, and to be tried again tomorrow."""
    job_id = shop.enqueue()
    shop.fail(shop.claim_one("A"), retry_delay_s=24 * HOUR_S)
    return job_id


def commit(shop: Shop, lease: Lease, worker: str) -> None:
    """The attempt's effect, if it is let in."""
    effect = shop.effect(lease, worker)
    effect.charge()
    effect.commit()


def charges_of(shop: Shop, job_id: int) -> int:
    ((count,),) = shop.sql(f"SELECT count(*) FROM ledger WHERE job_id = {job_id}")
    return int(count)


def reproduce(shop: Shop) -> Finding:
    """With a pruner that goes by age alone."""
    shop.weaken(weaken)
    return play(shop)


FM = FailureMode(
    id="FM_022",
    title="record pruned too early",
    invariants=("I1", "I2", "I6", "I9"),
    reproduce=reproduce,
    prevent=play,
)

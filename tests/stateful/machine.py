"""Any sequence of steps, on a real store and on the model; they must agree at every step."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import BOOM, Shop
from jobq.protocol.retention import Retention, RetentionPolicy
from jobq.protocol.states import AttemptEnd
from jobq.protocol.values import FailedAttempt, Lease
from tests.stateful.model import READY, SCHEDULED, Model

TABLES = (
    "jobq.scheduled",
    "jobq.ready",
    "jobq.leases",
    "jobq.commit_records",
    "jobq.attempts",
    "jobq.refusals",
    "jobq.jobs",
    "ledger",
)
FAR_S = 3600.0
PRUNE_ALL = RetentionPolicy(otherwise=Retention())
MOST_JOBS = 3
"""Few jobs, so that much happens to each."""

PLACES = """
SELECT 'scheduled', job_id, attempts, token FROM jobq.scheduled
UNION ALL SELECT 'ready', job_id, attempts, token FROM jobq.ready
UNION ALL SELECT 'leases', job_id, attempt, token FROM jobq.leases
UNION ALL SELECT outcome, job_id, 0, token FROM jobq.commit_records
UNION ALL SELECT 'charges', job_id, 0, count(*) FROM ledger GROUP BY job_id
"""

delays_s = st.sampled_from([0.0, FAR_S])


class QueueMachine(RuleBasedStateMachine):
    """Two workers, a reconciler and a canceller, with every lease that was ever given at hand."""

    leases = Bundle("leases")
    GROUPS = st.lists(leases, min_size=1, max_size=3, unique=True)

    def __init__(self, shop: Shop) -> None:
        super().__init__()
        for table in TABLES:
            shop.sql(f"DELETE FROM {table}")
        self.shop = shop
        self.model = Model()

    @initialize(target=leases)
    def begin(self) -> Any:
        """In the middle of things: what can happen to a lease is most of what can happen."""
        self._enqueue(1, is_due=True)
        self._enqueue(3, is_due=True)
        return multiple(*self._claim(MOST_JOBS, "A"))

    @precondition(lambda self: len(self.model.alive()) < MOST_JOBS)
    @rule(max_attempts=st.integers(1, 3), is_due=st.booleans())
    def enqueue(self, max_attempts: int, is_due: bool) -> None:
        self._enqueue(max_attempts, is_due=is_due)

    def _enqueue(self, max_attempts: int, *, is_due: bool) -> None:
        delay_s = 0.0 if is_due else FAR_S
        job_id = self.shop.enqueue(max_attempts=max_attempts, delay_s=delay_s)
        self.model.enqueue(job_id, max_attempts, is_due=is_due)

    @rule(target=leases, limit=st.integers(1, 3), worker=st.sampled_from("AB"))
    def claim(self, limit: int, worker: str) -> Any:
        return multiple(*self._claim(limit, worker))

    def _claim(self, limit: int, worker: str) -> list[Lease]:
        ready = {job.id for job in self.model.in_place(READY)}
        claimed = self.shop.claim(worker, limit)
        assert len(claimed) == min(limit, len(ready))
        for job in claimed:
            assert job.lease.job_id in ready
            assert self.model.claim(job.lease.job_id) == job.lease
            assert job.attempt == self.model.job(job.lease).attempts
        return [job.lease for job in claimed]

    @rule(lease=leases)
    def charge(self, lease: Lease) -> None:
        effect = self.shop.effect(lease, "A")
        effect.charge()
        effect.commit()
        assert (effect.refusal is None) == self.model.charge(lease)

    @rule(lease=leases)
    def fail_inside_the_effect(self, lease: Lease) -> None:
        effect = self.shop.effect(lease, "A")
        effect.charge()
        effect.roll_back()

    @rule(group=GROUPS)
    def complete(self, group: list[Lease]) -> None:
        # A job that charges is completed by its charge: here are those that have no effect.
        refused = {report.lease for report in self.shop.complete(*group)}
        assert refused == self.model.complete(group)

    @rule(group=GROUPS, delay_s=delays_s)
    def fail(self, group: list[Lease], delay_s: float) -> None:
        failures = [FailedAttempt(lease, AttemptEnd.FAILED, BOOM, delay_s) for lease in group]
        reported = self.shop.database.run(self.shop.database.store.fail(failures))
        assert {report.lease for report in reported.refused} == self.model.fail(group, delay_s)
        assert not reported.busy

    @rule(group=GROUPS)
    def release(self, group: list[Lease]) -> None:
        self.shop.release(*group)
        self.model.release(group)

    @rule(group=GROUPS)
    def heartbeat(self, group: list[Lease]) -> None:
        told = self.shop.heartbeat("A", *group)
        assert (set(told.lost), set(told.cancelled)) == self.model.heartbeat(group)

    @rule(group=GROUPS)
    def finalize(self, group: list[Lease]) -> None:
        self.shop.database.run(self.shop.database.store.finalize(group))
        self.model.finalize(group)

    @rule(lease=leases)
    def expire(self, lease: Lease) -> None:
        self._expire(lease)

    def _expire(self, lease: Lease) -> None:
        self.shop.expire(lease)
        self.model.expire(lease)

    @rule(target=leases, lease=leases)
    def take_over(self, lease: Lease) -> Any:
        """What makes a zombie: its job is recovered, and claimed by somebody else."""
        self._expire(lease)
        self._reconcile(0.0)
        self._promote()
        return multiple(*self._claim(MOST_JOBS, "B"))

    @rule(delay_s=delays_s)
    def reconcile(self, delay_s: float) -> None:
        self._reconcile(delay_s)

    def _reconcile(self, delay_s: float) -> None:
        told = self.shop.reconcile(delay_s)
        assert tuple(map(set, (told.healed, told.retried, told.dead))) == self.model.reconcile(
            delay_s
        )

    @precondition(lambda self: self.model.in_place(SCHEDULED))
    @rule(data=st.data())
    def come_due(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.model.in_place(SCHEDULED)))
        past = "0" if self.shop.is_sqlite else "'2000-01-01'"
        self.shop.sql(f"UPDATE jobq.scheduled SET run_at = {past} WHERE job_id = {job.id}")
        job.is_due = True

    @rule()
    def promote(self) -> None:
        self._promote()

    def _promote(self) -> None:
        assert self.shop.promote() == self.model.promote()

    @rule()
    def prune(self) -> None:
        past = "0" if self.shop.is_sqlite else "'2000-01-01'"
        self.shop.sql(f"UPDATE jobq.commit_records SET recorded_at = {past}")
        assert self.shop.prune(PRUNE_ALL).total == self.model.prune()

    @precondition(lambda self: self.model.alive())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(job.id for job in self.model.alive())))
        assert self.shop.cancel(job_id) == self.model.cancel(job_id)

    @invariant()
    def the_rows_are_the_models(self) -> None:
        found = sorted(tuple(row) for row in self.shop.sql(PLACES))
        expected = []
        for job in self.model.jobs.values():
            if job.place is not None:
                expected.append((job.place, job.id, job.attempts, job.token))
            if job.fate is not None:
                expected.append((job.fate.value, job.id, 0, job.fate_token))
            if job.charges:
                expected.append(("charges", job.id, 0, job.charges))
            assert job.charges <= 1, "an effect is applied at most once"
            assert job.attempts <= job.max_attempts
            assert (job.place is None) <= (job.fate is not None or job.is_pruned), "a job is lost"
            assert (job.place in (SCHEDULED, READY)) <= (job.fate is None), "a job is run again"
        assert found == sorted(expected)

    def teardown(self) -> None:
        assert not violations(self.shop, is_every_commit_charged=False)

"""Pruning: which jobs go, that nothing of them is left, and that no late attempt profits."""

from __future__ import annotations

import pytest

from jobq.errors import JobNotFound, LeaseLost, Refusal
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import WAIT_S, OpenTransaction, Parties
from jobq.protocol.retention import (
    DAY_S,
    FOREVER,
    HOUR_S,
    MIN_AGE_S,
    Pruned,
    Retention,
    RetentionPolicy,
    WalkedJob,
)
from jobq.protocol.states import Outcome, Stage, State
from jobq.protocol.values import Lease, Record, RefusedReport
from jobq.store.step import Step

HOURLY = RetentionPolicy(otherwise=Retention(HOUR_S, HOUR_S, HOUR_S))
TABLES = ("jobs", "scheduled", "ready", "leases", "commit_records", "attempts", "refusals")


class AtOnce(RetentionPolicy):
    """A policy that knows no least age."""

    __slots__ = ()

    def is_over(self, job: WalkedJob) -> bool:
        return job.outcome is not None


AT_ONCE = AtOnce(otherwise=Retention())


def rows(shop: Shop) -> dict[str, int]:
    return {name: shop.sql(f"SELECT count(*) FROM jobq.{name}")[0][0] for name in TABLES}


def committed(shop: Shop, *, age_s: float = 0.0) -> Lease:
    """A job that charged and is done; its lease, which is gone."""
    job_id = shop.enqueue()
    lease = shop.claim_one("A")
    effect = shop.effect(lease, "A")
    effect.charge()
    effect.commit()
    shop.finalize(lease)
    shop.grow_old(job_id, age_s=age_s)
    return lease


def dead(shop: Shop, *, age_s: float = 0.0) -> int:
    job_id = shop.enqueue(max_attempts=1)
    shop.fail(shop.claim_one("A"))
    shop.grow_old(job_id, age_s=age_s)
    return job_id


def cancelled(shop: Shop, *, age_s: float = 0.0) -> int:
    job_id = shop.enqueue()
    shop.cancel(job_id)
    shop.grow_old(job_id, age_s=age_s)
    return job_id


def exists(shop: Shop, job_id: int) -> bool:
    return shop.database.run(shop.database.store.job(job_id)) is not None


def test_a_job_goes_with_all_that_was_written_of_it(shop: Shop) -> None:
    lease = committed(shop, age_s=2 * HOUR_S)
    shop.enqueue(max_attempts=2)
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")
    refused = shop.fail(a).refused
    shop.database.run(shop.database.store.record_refusals("A", refused))
    shop.fail(b)
    shop.grow_old(b.job_id, age_s=2 * HOUR_S)
    assert rows(shop)["attempts"] == 2
    assert rows(shop)["refusals"] == 1

    pruned = shop.prune(HOURLY)

    assert pruned.jobs == {Outcome.COMMITTED: 1, Outcome.DEAD: 1, Outcome.CANCELLED: 0}
    assert rows(shop) == dict.fromkeys(TABLES, 0)
    assert shop.ledger() == ["A"], "what it changed stays"
    with pytest.raises(JobNotFound):
        shop.cancel(lease.job_id)


def test_each_outcome_has_its_own_time(shop: Shop) -> None:
    keep = Retention(committed_s=2 * HOUR_S, dead_s=5 * HOUR_S, cancelled_s=3 * HOUR_S)
    policy = RetentionPolicy(otherwise=keep)
    jobs = [committed(shop, age_s=4 * HOUR_S).job_id]
    jobs += [dead(shop, age_s=4 * HOUR_S), cancelled(shop, age_s=4 * HOUR_S)]

    assert shop.prune(policy).jobs == {
        Outcome.COMMITTED: 1,
        Outcome.DEAD: 0,
        Outcome.CANCELLED: 1,
    }
    assert [exists(shop, job_id) for job_id in jobs] == [False, True, False]

    shop.grow_old(jobs[1], age_s=HOUR_S)
    assert shop.prune(policy).total == 1


def test_each_task_has_its_own_time_and_others_are_left_alone(shop: Shop) -> None:
    names = ["mail", "bill", "keep", "unknown"]
    jobs = [shop.enqueue(task=name) for name in names]
    for claimed in shop.claim("A", 4, tasks=names):
        shop.complete(claimed.lease)
    shop.grow_old(*jobs, age_s=8 * DAY_S)
    month = Retention(committed_s=30 * DAY_S)

    shop.prune(RetentionPolicy({"mail": Retention(), "bill": month, "keep": FOREVER}))

    assert [exists(shop, job_id) for job_id in jobs] == [False, True, True, True]


def test_a_job_in_any_place_is_left_however_old(shop: Shop) -> None:
    scheduled = shop.enqueue(delay_s=3600)
    leased = shop.enqueue()
    shop.claim_one("A")
    unfinalized = shop.enqueue()
    lease = shop.claim_one("A")
    shop.database.run(shop.database.store.commit_record(lease))
    cancelled_while_running = shop.enqueue()
    shop.claim_one("A")
    shop.cancel(cancelled_while_running)
    ready = shop.enqueue()
    jobs = [scheduled, ready, leased, unfinalized, cancelled_while_running]
    shop.grow_old(*jobs, age_s=365 * DAY_S)
    before = rows(shop)

    assert shop.prune(HOURLY).total == 0
    assert rows(shop) == before

    shop.finalize(lease)
    assert shop.prune(HOURLY).jobs[Outcome.COMMITTED] == 1


def test_nothing_younger_than_the_least_age_goes_whatever_the_policy_says(shop: Shop) -> None:
    lease = committed(shop, age_s=MIN_AGE_S - 60)

    assert shop.prune(AT_ONCE).total == 0
    assert shop.state(lease.job_id) is State.DONE

    shop.grow_old(lease.job_id, age_s=61)
    assert shop.prune(AT_ONCE).total == 1


def test_a_dry_run_counts_and_deletes_nothing(shop: Shop) -> None:
    committed(shop, age_s=2 * HOUR_S)
    dead(shop, age_s=2 * HOUR_S)
    committed(shop)
    before = rows(shop)

    told = shop.prune(HOURLY, is_dry_run=True)

    assert rows(shop) == before
    assert told == shop.prune(HOURLY)
    assert told.total == 2


def test_batches_go_on_where_the_last_one_ended(shop: Shop) -> None:
    for number in range(7):
        if number % 2:
            shop.enqueue(delay_s=3600)
        else:
            cancelled(shop)
    shop.grow_old(*range(1, 8), age_s=2 * HOUR_S)

    after: int | None = 0
    batches = []
    while after is not None:
        batch = shop.prune(HOURLY, after=after, limit=3)
        batches.append((batch.walked, batch.total))
        after = batch.after

    assert batches == [(3, 2), (3, 1), (1, 1)]
    assert rows(shop)["jobs"] == 3


def test_a_walk_ends_at_the_first_job_too_young_for_any_policy(shop: Shop) -> None:
    cancelled(shop, age_s=2 * HOUR_S)
    cancelled(shop)
    cancelled(shop)

    assert shop.prune(HOURLY, limit=2).after is None


def test_a_policy_that_keeps_all_for_ever_looks_at_nothing(shop: Shop) -> None:
    cancelled(shop, age_s=365 * DAY_S)
    assert shop.prune(RetentionPolicy({"shop.charge": FOREVER})).walked == 0


def test_ids_do_not_come_back(shop: Shop) -> None:
    lease = committed(shop, age_s=2 * HOUR_S)
    shop.prune(HOURLY)
    assert shop.enqueue() > lease.job_id


def test_workers_long_gone_are_forgotten(shop: Shop) -> None:
    past = "0" if shop.is_sqlite else "'2000-01-01'"
    for worker in ("here", "stopped", "lost"):
        shop.heartbeat(worker)
    shop.database.run(shop.database.store.stop_worker("stopped"))
    shop.sql(f"UPDATE jobq.workers SET seen_at = {past} WHERE id = 'lost'")
    store = shop.database.store

    assert shop.database.run(store.prune_workers(is_dry_run=True)) == 1
    assert shop.database.run(store.prune_workers()) == 1
    assert {worker for (worker,) in shop.sql("SELECT id FROM jobq.workers")} == {"here", "stopped"}


# -- late attempts


def zombie_of_a_done_job(shop: Shop) -> Lease:
    """A's job was recovered, B committed it and it is done: only A does not know."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")
    effect = shop.effect(b, "B")
    effect.charge()
    effect.commit()
    shop.finalize(b)
    shop.grow_old(job_id, age_s=2 * HOUR_S)
    return a


def test_a_zombie_that_comes_after_the_pruning_is_refused(shop: Shop) -> None:
    a = zombie_of_a_done_job(shop)
    assert shop.prune(HOURLY).total == 1

    late = shop.effect(a, "A")
    late.charge()
    late.commit()

    assert isinstance(late.refusal, LeaseLost)
    assert [report.reason for report in shop.fail(a).refused] == ["lease_lost"]
    assert [report.reason for report in shop.complete(a)] == ["lease_lost"]
    shop.release(a)
    shop.finalize(a)
    assert shop.heartbeat("A", a).lost == {a}
    assert shop.ledger() == ["B"]
    assert rows(shop) == dict.fromkeys(TABLES, 0)


def test_a_refusal_about_a_job_that_is_gone_is_not_kept(shop: Shop) -> None:
    a = zombie_of_a_done_job(shop)
    shop.prune(HOURLY)
    shop.database.run(shop.database.store.record_refusals("A", shop.complete(a)))
    assert rows(shop)["refusals"] == 0


def test_a_zombies_transaction_around_the_pruning_is_refused(
    postgres_shop: Shop, parties: Parties
) -> None:
    """Its transaction is open before the job goes; its record comes at each moment around it."""
    shop, store = postgres_shop, postgres_shop.database.store
    for moment in ("before", "while", "after"):
        a = zombie_of_a_done_job(shop)
        charged = len(shop.ledger())
        zombie, pruner = parties.open(), parties.open()
        zombie.sql("SELECT 1")

        def refuse(lease: Lease = a, late: OpenTransaction = zombie) -> None:
            with pytest.raises(Refusal, match="changes nothing"):
                late.run(store.commit_record(lease))

        if moment == "before":
            refuse()
        assert pruner.run(store.prune(HOURLY, limit=100)).total == 1
        if moment == "while":
            refuse()
        pruner.commit()
        if moment == "after":
            refuse()
        zombie.commit()
        assert len(shop.ledger()) == charged, moment


def test_an_attempt_that_holds_its_lease_keeps_its_job_from_being_pruned(
    postgres_shop: Shop, parties: Parties
) -> None:
    shop, store = postgres_shop, postgres_shop.database.store
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    attempt = parties.open()
    attempt.run(store.commit_record(a))
    shop.grow_old(job_id, age_s=365 * DAY_S)

    assert shop.prune(HOURLY).total == 0
    attempt.commit()
    shop.grow_old(job_id, age_s=365 * DAY_S)
    assert shop.prune(HOURLY).total == 0, "COMMITTED, and not yet finalized"

    shop.finalize(a)
    assert shop.prune(HOURLY).total == 1


def test_pruners_at_once_leave_each_others_jobs_and_wait_for_nobody(
    postgres_shop: Shop, parties: Parties
) -> None:
    shop, store = postgres_shop, postgres_shop.database.store
    for _ in range(4):
        cancelled(shop, age_s=2 * HOUR_S)
    one, other = parties.open(), parties.open()

    assert one.run(store.prune(HOURLY, limit=2)).total == 2
    assert other.run(store.prune(HOURLY, limit=100)).total == 2  # LockNotAvailable if it waited
    other.commit()
    one.rollback()  # it died
    assert rows(shop)["jobs"] == 2
    assert shop.prune(HOURLY).total == 2


def test_a_pruner_whose_look_is_old_looks_again_under_the_lock(postgres_shop: Shop) -> None:
    """Another one deletes between its walk and its lock: the job is counted once."""
    shop, store = postgres_shop, postgres_shop.database.store
    cancelled(shop, age_s=2 * HOUR_S)
    pruned: list[Pruned] = []

    def overtaken(step: Step[Pruned]) -> Step[Pruned]:
        rows = yield next(step)
        pruned.append(shop.prune(HOURLY))
        while True:
            try:
                statement = step.send(rows)
            except StopIteration as end:
                slow: Pruned = end.value
                return slow
            rows = yield statement

    pruned.append(shop.database.run(overtaken(store.prune(HOURLY, limit=100))))
    assert [batch.total for batch in pruned] == [1, 0]


def test_a_refusal_being_written_keeps_its_job_from_being_pruned(
    postgres_shop: Shop, parties: Parties
) -> None:
    shop, store = postgres_shop, postgres_shop.database.store
    a = zombie_of_a_done_job(shop)
    refused = [RefusedReport(a, Stage.COMMIT, Record(2, Outcome.COMMITTED))]
    reporter = parties.open()
    reporter.run(store.record_refusals("A", refused))

    assert shop.prune(HOURLY).total == 0
    reporter.commit()
    assert shop.prune(HOURLY).total == 1

    b = zombie_of_a_done_job(shop)
    pruner = parties.open()
    assert pruner.run(store.prune(HOURLY, limit=100)).total == 1
    late = reporter.start(store.record_refusals("B", [RefusedReport(b, Stage.FAIL, None)]))
    parties.wait_until_blocked(reporter.pid)
    pruner.commit()
    late.result(WAIT_S)
    reporter.commit()
    assert rows(shop) == dict.fromkeys(TABLES, 0)


def test_a_commit_asked_for_after_its_job_was_pruned_is_not_denied(shop: Shop) -> None:
    """The commit took place. "Not committed" would be a lie, and its worker might act on it."""
    lease = committed(shop, age_s=2 * HOUR_S)
    assert shop.database.run(shop.database.store.settle(lease)) is True
    shop.prune(HOURLY)

    with pytest.raises(JobNotFound):
        shop.database.run(shop.database.store.settle(lease))

"""Recovery: what the reconciler does with leases whose time is over, and what it must not do."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from jobq.commit import commit_effect_idempotent
from jobq.errors import DatabaseUnavailable, LeaseLost
from jobq.failure_modes.shop import Shop, charge
from jobq.failure_modes.transactions import Parties
from jobq.protocol.states import AttemptEnd, State
from jobq.protocol.values import Lease, Recovered


@pytest.fixture
def is_every_commit_charged() -> bool:
    return True


def apply_effect(shop: Shop, lease: Lease, worker: str) -> None:
    with commit_effect_idempotent(shop.database, lease, shop.driver) as connection:
        charge(connection, lease, worker)


def ends(shop: Shop, job_id: int) -> Sequence[tuple[int, AttemptEnd]]:
    attempts = shop.database.run(shop.database.store.attempts(job_id))
    return [(attempt.attempt, attempt.end) for attempt in attempts]


def test_a_lease_that_still_runs_is_left_alone(shop: Shop) -> None:
    job_id = shop.enqueue()
    shop.claim_one("A")

    assert shop.reconcile() == Recovered()
    assert shop.state(job_id) is State.LEASED


def test_a_crash_after_committed_is_healed_without_running_again(shop: Shop) -> None:
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    apply_effect(shop, a, "A")  # and A dies before it can finalize
    assert shop.state(job_id) is State.COMMITTED

    assert shop.recover(a) == Recovered(healed=(job_id,))

    assert shop.state(job_id) is State.DONE
    assert shop.claim("B") == []
    assert shop.ledger() == ["A"]
    assert ends(shop, job_id) == [(1, AttemptEnd.HEALED)]
    assert shop.job(job_id).attempts == 1


def test_a_crash_before_committed_runs_the_job_again_once(shop: Shop) -> None:
    job_id = shop.enqueue()
    a = shop.claim_one("A")

    assert shop.recover(a) == Recovered(retried=(job_id,))
    b = shop.claim_one("B")
    apply_effect(shop, b, "B")
    shop.finalize(b)

    assert shop.ledger() == ["B"]
    assert shop.state(job_id) is State.DONE
    assert shop.claim("C") == []
    assert ends(shop, job_id) == [(1, AttemptEnd.EXPIRED)]
    assert shop.job(job_id).attempts == 2


def test_an_expired_lease_that_nobody_recovered_may_still_commit(shop: Shop) -> None:
    """Expiry makes a lease recoverable; only recovery ends it. No clock has a say."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(a)

    apply_effect(shop, a, "A")

    assert shop.reconcile() == Recovered(healed=(job_id,))
    assert shop.ledger() == ["A"]


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_job_that_kills_its_worker_is_dead_after_exactly_max_attempts(
    shop: Shop, max_attempts: int
) -> None:
    job_id = shop.enqueue(max_attempts=max_attempts)

    for attempt in range(1, max_attempts + 1):
        (claimed,) = shop.claim(f"W{attempt}")
        assert claimed.attempt == attempt
        recovered = shop.recover(claimed.lease)

    assert recovered == Recovered(dead=(job_id,))
    assert shop.state(job_id) is State.DEAD
    assert shop.claim("last") == []
    assert shop.job(job_id).attempts == max_attempts
    assert ends(shop, job_id) == [(n, AttemptEnd.EXPIRED) for n in range(1, max_attempts + 1)]


def test_a_retry_after_expiry_waits_for_its_backoff(shop: Shop) -> None:
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(a)

    assert shop.reconcile(retry_delay_s=3600) == Recovered(retried=(job_id,))

    assert shop.promote() == 0
    assert shop.state(job_id) is State.SCHEDULED


def test_one_pass_sorts_the_committed_from_the_lost_and_the_spent(shop: Shop) -> None:
    healed, retried, dead = shop.enqueue(), shop.enqueue(), shop.enqueue(max_attempts=1)
    leases = [claimed.lease for claimed in shop.claim("A", limit=3)]
    apply_effect(shop, leases[0], "A")
    shop.expire(*leases)

    assert shop.reconcile() == Recovered(healed=(healed,), retried=(retried,), dead=(dead,))


def test_a_pass_is_bounded(shop: Shop) -> None:
    for _ in range(5):
        shop.enqueue()
    shop.expire(*[claimed.lease for claimed in shop.claim("A", limit=5)])
    store = shop.database.store

    passes = [shop.database.run(store.reconcile(2, lambda _: 0.0)).total for _ in range(4)]

    assert passes == [2, 2, 1, 0]


def test_reconcilers_at_once_share_the_expired_leases(
    postgres_shop: Shop, parties: Parties
) -> None:
    """Two open transactions: neither waits, no lease is recovered twice."""
    job_ids = {postgres_shop.enqueue() for _ in range(6)}
    postgres_shop.expire(*[claimed.lease for claimed in postgres_shop.claim("A", limit=6)])
    store = postgres_shop.database.store
    first, second, third = parties.open(), parties.open(), parties.open()

    one = first.run(store.reconcile(4, lambda _: 0.0))
    two = second.run(store.reconcile(4, lambda _: 0.0))
    nothing = third.run(store.reconcile(4, lambda _: 0.0))
    first.commit()
    second.rollback()  # this reconciler crashes: its leases are there for the next
    again = postgres_shop.reconcile()

    assert (len(one.retried), len(two.retried), nothing) == (4, 2, Recovered())
    assert set(one.retried) | set(two.retried) == job_ids
    assert set(again.retried) == set(two.retried)


def test_a_commit_under_way_is_not_rescued(postgres_shop: Shop, parties: Parties) -> None:
    """FM_006: the record is written and not committed when the reconciler looks."""
    shop = postgres_shop
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(a)
    reconciler = parties.open()

    with commit_effect_idempotent(shop.database, a, shop.driver) as connection:
        charge(connection, a, "A")
        early = reconciler.run(shop.database.store.reconcile(10, lambda _: 0.0))
    # The same transaction looks again, after the commit it could not see.
    late = reconciler.run(shop.database.store.reconcile(10, lambda _: 0.0))
    reconciler.commit()

    assert early == Recovered(), "it neither waits for A nor decides over A's head"
    assert late == Recovered(healed=(job_id,))
    assert shop.ledger() == ["A"]


def test_a_reconciler_that_waited_for_a_commit_sees_it(
    postgres_shop: Shop, parties: Parties
) -> None:
    """The trap of FM_006, taken on purpose: a step that locks without SKIP LOCKED waits for the
    commit under way, and must not decide by what it saw before it waited."""
    shop = postgres_shop
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    settler = parties.open()

    effect = commit_effect_idempotent(shop.database, a, shop.driver)
    charge(effect.__enter__(), a, "A")
    settled = settler.start(shop.database.store.settle(a))
    parties.wait_until_blocked(settler.pid)
    effect.__exit__(None, None, None)

    assert settled.result(timeout=30) is True
    settler.commit()
    shop.finalize(a)
    assert shop.state(job_id) is State.DONE


def test_a_commit_meets_a_recovery_under_way_and_is_refused(
    postgres_shop: Shop, parties: Parties
) -> None:
    shop = postgres_shop
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(a)
    reconciler = parties.open()
    assert reconciler.run(shop.database.store.reconcile(10, lambda _: 0.0)).retried == (job_id,)

    committing = parties.open()
    refused = committing.start(shop.database.store.commit_record(a))
    parties.wait_until_blocked(committing.pid)
    reconciler.commit()

    with pytest.raises(LeaseLost):
        refused.result(timeout=30)
    committing.rollback()
    assert shop.state(job_id) is State.SCHEDULED
    assert shop.records() == []


def test_a_commit_outlives_a_recovery_that_crashed(postgres_shop: Shop, parties: Parties) -> None:
    shop = postgres_shop
    shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(a)
    reconciler = parties.open()
    assert reconciler.run(shop.database.store.reconcile(10, lambda _: 0.0)).total == 1

    committing = parties.open()
    recorded = committing.start(shop.database.store.commit_record(a))
    parties.wait_until_blocked(committing.pid)
    reconciler.rollback()

    assert recorded.result(timeout=30).lease == a
    committing.sql(f"INSERT INTO ledger VALUES ({a.job_id}, 'A')")
    committing.commit()
    assert shop.ledger() == ["A"]
    assert shop.reconcile().healed == (a.job_id,)


def test_on_sqlite_recovery_waits_for_a_commit_under_way_and_then_gives_up(
    sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = sqlite_shop
    monkeypatch.setattr("jobq.database.sqlite.BUSY_TIMEOUT_S", 0.05)
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(a)
    reconciler = shop.database.link()  # its connection is made with the short patience

    with commit_effect_idempotent(shop.database, a, shop.driver) as connection:
        charge(connection, a, "A")
        with pytest.raises(DatabaseUnavailable):
            reconciler.run(shop.database.store.reconcile(10, lambda _: 0.0))

    recovered = reconciler.run(shop.database.store.reconcile(10, lambda _: 0.0))
    reconciler.close()
    assert recovered == Recovered(healed=(job_id,))

"""The jobs of a batch commit as one transaction; those that may not are left out of it."""

from __future__ import annotations

from typing import Any

import pytest

from jobq import AlreadyCommitted, EffectRolledBack, LeaseLost, State
from jobq.commit import commit_effects_together
from jobq.failure_modes.shop import Shop, charge
from jobq.failure_modes.transactions import Parties
from jobq.protocol.values import Lease


def claim(shop: Shop, count: int) -> list[Lease]:
    for _ in range(count):
        shop.enqueue()
    return [claimed.lease for claimed in shop.claim("A", count)]


def test_all_of_them_are_committed(shop: Shop) -> None:
    leases = claim(shop, 5)
    with commit_effects_together(shop.database, leases[::-1], shop.driver) as together:
        assert (together.accepted, together.refused) == (leases, {})
        for lease in together.accepted:
            charge(together.handle, lease, "A")
    for lease in leases:
        assert shop.state(lease.job_id) is State.COMMITTED
        shop.recover(lease)
        assert shop.state(lease.job_id) is State.DONE


def test_those_that_may_not_commit_are_left_out(shop: Shop) -> None:
    lost, committed, cancelled, live = claim(shop, 4)
    shop.recover(lost)
    effect = shop.effect(committed, "A")
    effect.charge()
    effect.commit()
    shop.cancel(cancelled.job_id)

    leases = [lost, committed, cancelled, live]
    with commit_effects_together(shop.database, leases, shop.driver) as together:
        assert together.accepted == [live]
        assert {lease: type(refusal) for lease, refusal in together.refused.items()} == {
            lost: LeaseLost,
            committed: AlreadyCommitted,
            cancelled: AlreadyCommitted,
        }
        charge(together.handle, live, "A")
    assert len(shop.ledger()) == 2
    with commit_effects_together(shop.database, leases, shop.driver) as together:
        assert (together.handle, together.accepted) == (None, [])
    shop.finalize(committed)


def test_none_is_committed_when_the_effect_fails(shop: Shop) -> None:
    leases = claim(shop, 3)

    def fail() -> None:
        with commit_effects_together(shop.database, leases, shop.driver) as together:
            charge(together.handle, leases[0], "A")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert {shop.state(lease.job_id) for lease in leases} == {State.LEASED}
    assert shop.ledger() == []


def test_a_transaction_that_failed_is_named(postgres_shop: Shop) -> None:
    leases = claim(postgres_shop, 2)

    def swallow() -> None:
        with commit_effects_together(
            postgres_shop.database, leases, postgres_shop.driver
        ) as together:
            handle: Any = together.handle
            with pytest.raises(Exception, match="division by zero"):
                handle.execute("SELECT 1/0")

    with pytest.raises(EffectRolledBack):
        swallow()


def test_two_batches_with_the_same_jobs_wait_and_do_not_deadlock(
    postgres_shop: Shop, parties: Parties
) -> None:
    """A supervisor that starts a worker twice with a copied memory, say: the same leases."""
    shop = postgres_shop
    leases = claim(shop, 3)
    store = shop.database.store
    a, b = parties.open(), parties.open()
    recorded, refused = a.run(store.commit_records(leases))
    waiting = b.start(store.commit_records(leases[::-1]))
    parties.wait_until_blocked(b.pid)
    a.commit()
    assert ([one.lease for one in recorded], refused) == (leases, {})
    late, refusals = waiting.result()
    b.rollback()
    assert late == []
    assert {type(refusal) for refusal in refusals.values()} == {AlreadyCommitted}
    shop.sql("DELETE FROM jobq.commit_records")

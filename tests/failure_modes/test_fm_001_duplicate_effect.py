"""FM_001: a lease expires and two workers apply the effect.

Worker A claims a job and is paused past its lease: a long garbage collection, a slow disk, a
laptop lid, SIGSTOP. The reconciler gives the job to worker B, which charges the customer. A
wakes up, knows nothing of it, and charges the customer again.

The fix is the commit record (invariants I1, I2, I4): the first statement of an effect's
transaction inserts it, joined to the attempt's live lease. docs/failure-modes/FM_001.md tells
the whole story.
"""

from __future__ import annotations

import pytest

from jobq.commit import commit_effect_idempotent
from jobq.errors import AlreadyCommitted, LeaseLost
from jobq.failure_modes.naive import naive_store
from jobq.protocol.states import State
from jobq.protocol.values import Lease
from tests.shop import Shop, charge


def test_reproduces_duplicate_effect_on_the_naive_path(postgres_shop: Shop) -> None:
    """Two open PostgreSQL transactions, interleaved statement by statement."""
    shop = postgres_shop
    shop.database.store = naive_store(shop.database.store)
    shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)  # A is paused past its lease
    b = shop.claim_one("B")

    effect_of_b = commit_effect_idempotent(shop.database, b, shop.driver)
    connection_of_b = effect_of_b.__enter__()
    effect_of_a = commit_effect_idempotent(shop.database, a, shop.driver)
    connection_of_a = effect_of_a.__enter__()  # A wakes up while B is at work
    charge(connection_of_b, b, "B")
    charge(connection_of_a, a, "A")
    effect_of_b.__exit__(None, None, None)
    effect_of_a.__exit__(None, None, None)
    shop.finalize(b)
    shop.finalize(a)

    assert shop.ledger() == ["A", "B"], "the harm: one order, two charges"
    assert shop.state(b.job_id) is State.DONE, "and the queue sees nothing wrong"


def test_prevented_under_the_same_interleaving(postgres_shop: Shop) -> None:
    shop = postgres_shop
    shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")

    effect_of_b = commit_effect_idempotent(shop.database, b, shop.driver)
    connection_of_b = effect_of_b.__enter__()
    effect_of_a = commit_effect_idempotent(shop.database, a, shop.driver)
    with pytest.raises(LeaseLost):
        effect_of_a.__enter__()  # at once: A does not wait for B's transaction
    charge(connection_of_b, b, "B")
    effect_of_b.__exit__(None, None, None)
    shop.finalize(b)

    assert shop.ledger() == ["B"]
    assert shop.records() == [(b.token, "committed")]
    assert shop.state(b.job_id) is State.DONE


def test_reproduces_duplicate_effect_on_sqlite(sqlite_shop: Shop) -> None:
    """SQLite has one writer at a time; the pause falls between claim and effect all the same."""
    shop = sqlite_shop
    shop.database.store = naive_store(shop.database.store)
    shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")

    for worker, lease in (("B", b), ("A", a)):
        apply_effect(shop, lease, worker)
        shop.finalize(lease)

    assert shop.ledger() == ["A", "B"]


def test_prevented_on_sqlite(sqlite_shop: Shop) -> None:
    shop = sqlite_shop
    shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")

    with pytest.raises(LeaseLost):  # A wakes up before B has committed: the lease refuses it
        apply_effect(shop, a, "A")
    apply_effect(shop, b, "B")
    with pytest.raises(AlreadyCommitted):  # and after: the record does
        apply_effect(shop, a, "A")
    shop.finalize(b)

    assert shop.ledger() == ["B"]
    assert shop.state(b.job_id) is State.DONE


def test_prevented_when_one_live_lease_commits_twice(shop: Shop) -> None:
    """Here the lease refuses nobody, and the record's unique key is all there is."""
    shop.enqueue()
    a = shop.claim_one("A")

    apply_effect(shop, a, "A")
    with pytest.raises(AlreadyCommitted):
        apply_effect(shop, a, "A")

    assert shop.ledger() == ["A"]
    assert shop.records() == [(a.token, "committed")]


def apply_effect(shop: Shop, lease: Lease, worker: str) -> None:
    with commit_effect_idempotent(shop.database, lease, shop.driver) as connection:
        charge(connection, lease, worker)

"""FM_001: a lease expires and two workers apply the effect.

Worker A claims a job and is paused past its lease: a long garbage collection, a slow disk, a
laptop lid, SIGSTOP. The reconciler gives the job to worker B, which charges the customer. A
wakes up, knows nothing of it, and charges the customer again.

The fix is the commit record (invariants I1, I2, I4): the first statement of an effect's
transaction inserts it, joined to the attempt's live lease. docs/failure-modes/FM_001.md tells
the whole story.
"""

from __future__ import annotations

from jobq.errors import AlreadyCommitted
from jobq.failure_modes.fm_001_duplicate_effect import play, reproduce
from jobq.failure_modes.shop import Shop
from jobq.protocol.states import State


def test_reproduces_two_charges_for_one_order(shop: Shop) -> None:
    """On PostgreSQL in two open transactions, interleaved statement by statement."""
    found = reproduce(shop)

    assert found.seen["charged_by"] == ["A", "B"], "the harm: one order, two charges"
    assert found.seen["state"] is State.DONE, "and the queue sees nothing wrong"
    assert found.is_harmed


def test_prevented_under_the_same_interleaving(shop: Shop) -> None:
    found = play(shop)

    assert found.seen["charged_by"] == ["B"]
    # On PostgreSQL B is still at work: the lease refuses A, and A does not wait for B. On SQLite
    # B has committed: the record refuses A.
    assert found.seen["refusal"] == ("AlreadyCommitted" if shop.is_sqlite else "LeaseLost")
    assert found.seen["state"] is State.DONE
    assert not found.is_harmed


def test_prevented_when_the_zombie_comes_first(shop: Shop) -> None:
    shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")

    late = shop.effect(a, "A")
    effect = shop.effect(b, "B")
    effect.charge()
    effect.commit()

    assert late.refusal is not None
    assert shop.ledger() == ["B"]


def test_prevented_when_one_live_lease_commits_twice(shop: Shop) -> None:
    """Here the lease refuses nobody, and the record's unique key is all there is."""
    shop.enqueue()
    a = shop.claim_one("A")

    for _ in range(2):
        effect = shop.effect(a, "A")
        effect.charge()
        effect.commit()

    assert isinstance(effect.refusal, AlreadyCommitted)
    assert shop.ledger() == ["A"]
    assert shop.records() == [(a.token, "committed")]

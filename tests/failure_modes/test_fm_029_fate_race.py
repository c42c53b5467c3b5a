"""FM_029: a job is declared dead or cancelled while its commit is under way.

Worker A is at the last attempt. Its commit record and its charge are written and not committed,
and its lease is past its time. The reconciler looks for a record, sees none (nobody can see an
uncommitted row) and declares the job dead; or the customer cancels, with the same look. The order
is refunded. Then A commits. The record's unique key has nothing against it: "dead" was written
somewhere else.

The fix is one fate for a job (invariants I1, I9): committed, dead and cancelled are the same row
under the same unique key, and whoever decides holds the job's lease first.
"""

from __future__ import annotations

import pytest

from jobq.errors import AlreadyCommitted
from jobq.failure_modes.fm_029_fate_race import VERDICTS, burial, play, play_verdict, reproduce
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import Parties
from jobq.protocol.states import Outcome, State


def test_reproduces_a_refund_and_a_charge_for_one_order(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.is_harmed
    for fate, seen in found.seen.items():
        assert seen["booked"] == ["A", "refund"]
        assert seen["records"] == ["committed"]
        assert fate in fates(shop), "and its other fate is written elsewhere"
        assert not seen["has_waited"], "the look for a record waits for nobody"


def test_prevented_by_one_fate(shop: Shop) -> None:
    found = play(shop)

    assert not found.is_harmed
    dead, cancelled = (found.seen[fate] for fate in VERDICTS)
    if shop.is_sqlite:  # the verdict came first, and A was refused
        assert (dead["booked"], dead["records"]) == (["refund"], ["dead"])
        assert (cancelled["booked"], cancelled["records"]) == (["refund"], ["cancelled"])
        return
    for seen in (dead, cancelled):
        assert (seen["booked"], seen["records"]) == (["A"], ["committed"])
        assert not seen["is_declared"]
    assert not dead["has_waited"], "the reconciler skips a lease under commit"
    assert cancelled["has_waited"], "cancel has to answer, so it waits for A"
    assert not violations(shop, is_every_commit_charged=True)


def test_prevented_when_the_commit_under_way_fails(postgres_shop: Shop) -> None:
    """Then the fate is still open: cancel, which waited, decides it; burial comes with the next
    pass."""
    shop = postgres_shop

    cancelled = play_verdict(shop, VERDICTS["cancelled"], is_committed=False)
    dead = play_verdict(shop, VERDICTS["dead"], is_committed=False)

    assert (cancelled["booked"], cancelled["records"]) == (["refund"], ["cancelled"])
    assert (dead["booked"], dead["records"]) == ([], [])
    assert len(shop.reconcile().dead) == 1


@pytest.mark.parametrize("fate", VERDICTS)
def test_prevented_when_the_verdict_comes_first(shop: Shop, fate: str) -> None:
    job_id = shop.enqueue(max_attempts=1)
    a = shop.claim_one("A")
    shop.expire(a)

    assert shop.database.run(VERDICTS[fate](shop.database.store, job_id))
    late = shop.effect(a, "A")
    late.charge()
    late.commit()

    assert isinstance(late.refusal, AlreadyCommitted)
    assert late.refusal.outcome is Outcome(fate)
    assert shop.ledger() == []
    assert shop.records() == [(a.token, fate)]


def test_prevented_while_a_burial_is_under_way(postgres_shop: Shop, parties: Parties) -> None:
    """The other way round: A comes to its boundary while the burial is not committed yet."""
    shop = postgres_shop
    job_id = shop.enqueue(max_attempts=1)
    a = shop.claim_one("A")
    shop.expire(a)
    burying, committing = parties.open(), parties.open()

    assert burying.run(burial(shop.database.store, job_id))
    started = committing.start(shop.database.store.commit_record(a))
    parties.wait_until_blocked(committing.pid)
    burying.commit()

    assert isinstance(started.exception(timeout=30), AlreadyCommitted)
    committing.rollback()
    assert shop.state(job_id) is State.DEAD


def test_a_verdict_after_the_commit_changes_nothing(shop: Shop) -> None:
    """Committed and not finalized, with a lease past its time: still committed."""
    job_id = shop.enqueue(max_attempts=1)
    a = shop.claim_one("A")
    effect = shop.effect(a, "A")
    effect.charge()
    effect.commit()
    shop.expire(a)

    assert not shop.cancel(job_id)
    assert shop.reconcile().dead == ()
    assert shop.state(job_id) is State.DONE
    assert shop.records() == [(a.token, "committed")]


def fates(shop: Shop) -> list[str]:
    return [outcome for (outcome,) in shop.sql("SELECT outcome FROM fates")]

"""FM_001: a lease expires and two workers apply the effect."""

from __future__ import annotations

from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.naive import naive_store
from jobq.failure_modes.shop import Shop


def play(shop: Shop) -> Finding:
    """A is paused past its lease, B gets the job, and A goes on where it was."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")

    effect_of_b = shop.effect(b, "B")
    if shop.is_sqlite:  # one writer at a time: A's effect can only come before or after
        effect_of_b.charge()
        effect_of_b.commit()
        effect_of_a = shop.effect(a, "A")
        effect_of_a.charge()
        effect_of_a.commit()
    else:
        effect_of_a = shop.effect(a, "A")  # two open transactions
        effect_of_b.charge()
        effect_of_a.charge()
        effect_of_b.commit()
        effect_of_a.commit()
    shop.finalize(b)
    if effect_of_a.refusal is None:
        shop.finalize(a)

    charged_by = shop.ledger()
    refusal = type(effect_of_a.refusal).__name__ if effect_of_a.refusal else None
    return Finding(
        is_harmed=len(charged_by) > 1,
        detail=f"one order, charged by {' and '.join(charged_by)}"
        + (f"; A was refused ({refusal})" if refusal else ""),
        seen={"charged_by": charged_by, "refusal": refusal, "state": shop.state(job_id)},
    )


def reproduce(shop: Shop) -> Finding:
    """On a queue that has leases and no commit record."""
    shop.weaken(naive_store)
    return play(shop)


FM = FailureMode(
    id="FM_001",
    title="duplicate effect after lease expiry",
    invariants=("I1", "I2", "I4"),
    reproduce=reproduce,
    prevent=play,
)

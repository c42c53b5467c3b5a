"""FM_005: a worker dies after its effect was committed and before the job is done."""

from __future__ import annotations

from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.naive import naive_store
from jobq.failure_modes.shop import Shop


def play(shop: Shop) -> Finding:
    """A charges and is killed before it can say so. Whoever is given the job charges."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    effect = shop.effect(a, "A")
    effect.charge()
    effect.commit()
    # SIGKILL, the power, the kernel's out-of-memory killer: A finalizes nothing.
    state_after_crash = shop.state(job_id)

    recovered = shop.recover(a)
    again = shop.claim("B")
    for claimed in again:
        effect = shop.effect(claimed.lease, "B")
        effect.charge()
        effect.commit()
        shop.finalize(claimed.lease)

    charged_by = shop.ledger()
    return Finding(
        is_harmed=len(charged_by) > 1,
        detail=f"one order, charged by {' and '.join(charged_by)}"
        + ("; the job was finalized from its record" if recovered.healed else ""),
        seen={
            "charged_by": charged_by,
            "runs": 1 + len(again),
            "recovered": recovered,
            "state_after_crash": state_after_crash,
            "state": shop.state(job_id),
            "attempts": [ended.end for ended in shop.attempts(job_id)],
        },
    )


def reproduce(shop: Shop) -> Finding:
    """On a queue that marks a job done after its effect was committed, in a second transaction."""
    shop.weaken(naive_store)
    return play(shop)


FM = FailureMode(
    id="FM_005",
    title="crash after COMMITTED, before DONE",
    invariants=("I2", "I3"),
    reproduce=reproduce,
    prevent=play,
)

"""FM_030: whether a job is free is decided by a table that the claim does not lock.

Jobs are in one table and leases in another, and a job is free when it has no lease: the claim
selects from jobs `WHERE NOT EXISTS (a lease) ... FOR UPDATE OF jobs SKIP LOCKED`. It looks safe,
since PostgreSQL looks at a row again when it has got its lock. But it looks again at that row
only. The leases were read with the statement's snapshot, and a rival that claimed and committed
after it has written to the leases alone. Both get the job, inside one statement each, and no
interleaving of whole statements shows it.

The fix is that the row which is locked is the row which decides (I5): a claim deletes from
`ready`, and there is no second table to ask.
"""

from __future__ import annotations

from itertools import product

import pytest

from jobq.failure_modes.fm_012_over_claim import force
from jobq.failure_modes.fm_030_claim_by_another_table import GATE, play, play_gap, reproduce
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from jobq.protocol.states import State

SWITCHES = (
    "enable_bitmapscan",
    "enable_indexscan",
    "enable_nestloop",
    "enable_seqscan",
    "enable_tidscan",
)
"""What decides how a claim finds the rows of `ready`, first to lock and then to delete them."""


def test_reproduces_two_workers_with_one_job(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop)

    assert found.is_harmed
    assert found.seen["holders"] == ["B", "A"]
    assert found.seen["leases"] == [(2, "A")], "B's lease, a moment old, was written over"


def test_prevented_by_claiming_from_the_row_that_decides(postgres_shop: Shop) -> None:
    found = play(postgres_shop)

    assert not found.is_harmed
    assert found.seen == {"holders": ["B"], "leases": [(1, "B")]}
    assert not violations(postgres_shop, is_every_commit_charged=True)


def test_prevented_under_every_plan(postgres_shop: Shop) -> None:
    postgres_shop.sql(GATE)
    for positions in product(("on", "off"), repeat=len(SWITCHES)):
        switches = dict(zip(SWITCHES, positions, strict=True))
        job_id = postgres_shop.enqueue()

        claimed = play_gap(
            postgres_shop,
            lambda: postgres_shop.claim("B"),
            lambda claiming, switches=switches: force(claiming, switches),  # type: ignore[misc]
        )

        assert not claimed, f"A got job {job_id} beside B with {switches}"
        assert postgres_shop.sql(f"SELECT worker FROM jobq.leases WHERE job_id = {job_id}") == [
            ("B",)
        ]


@pytest.mark.parametrize("what", ["claimed and given back", "claimed and done", "cancelled"])
def test_prevented_when_the_row_is_gone(postgres_shop: Shop, what: str) -> None:
    """What A saw is a row that is no more; that one like it came back is for the next claim."""
    shop = postgres_shop
    shop.sql(GATE)
    job_id = shop.enqueue()

    def meanwhile() -> None:
        if what == "cancelled":
            assert shop.cancel(job_id)
            return
        lease = shop.claim_one("B")
        if what == "claimed and done":
            shop.complete(lease)
        else:
            shop.release(lease)

    assert not play_gap(shop, meanwhile)

    back = what == "claimed and given back"
    assert (shop.state(job_id) is State.READY) is back
    assert len(shop.claim("A")) == back


def test_the_next_job_is_taken_instead(postgres_shop: Shop) -> None:
    """Whoever loses one row to a rival still gets its limit, from the rows behind it."""
    postgres_shop.sql(GATE)
    first, second = postgres_shop.enqueue(), postgres_shop.enqueue()

    (claimed,) = play_gap(postgres_shop, lambda: postgres_shop.claim("B"))

    assert claimed.lease.job_id == second
    assert postgres_shop.state(first) is State.LEASED

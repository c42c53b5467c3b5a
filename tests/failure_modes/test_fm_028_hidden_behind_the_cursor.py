"""FM_028: a due job stands before the place where claims begin to look.

A claim cursor is the remedy for dead rows (FM_015), and brings a harm of its own. Jobs do not
become visible in the order in which they stand in line: a long transaction commits a job whose due
time is long past, a worker gives one back, somebody enqueues with a higher priority. All three
stand before the cursor. One that only goes forward never sees them.

The fix is a look from the head at least every second (I6).
"""

from __future__ import annotations

from jobq.failure_modes.fm_028_hidden_behind_the_cursor import play, reproduce
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop


def test_reproduces_jobs_that_nobody_looks_for(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop)

    assert found.is_harmed
    assert found.seen["soon"] == found.seen["found"] == []


def test_prevented_by_a_look_from_the_head(postgres_shop: Shop) -> None:
    found = play(postgres_shop)

    assert not found.is_harmed
    assert found.seen["soon"] == [], "the cursor was really used"
    assert found.seen["found"] == found.seen["expected"], "and in the order of the line"
    assert not violations(postgres_shop, is_every_commit_charged=True)

"""FM_015: claims step over the dead, and the queue slows until it stops.

Somebody holds a snapshot: a backup, a report, a session that was left open. Nothing that any
transaction removes from then on may be removed from the indexes, and a queue removes a row for
every job. A claim begins with the first row in line, and steps over every row that was claimed
before it. The busier the queue, the longer the way.

The fix is that a claim begins where the one before it ended. What is asserted is the number of
pages that one claim touches.
"""

from __future__ import annotations

from jobq.failure_modes.fm_015_dead_rows import play, reproduce
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop


def test_reproduces_claims_that_read_more_with_every_job(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop)

    buffers = found.seen["buffers"]
    assert found.is_harmed
    assert buffers == sorted(buffers)
    assert buffers[-1] > 10 * buffers[0]


def test_prevented_by_beginning_where_the_last_claim_ended(postgres_shop: Shop) -> None:
    found = play(postgres_shop)

    assert not found.is_harmed
    assert max(found.seen["buffers"][2:]) <= found.seen["buffers"][0] + 10
    assert not violations(postgres_shop, is_every_commit_charged=False)

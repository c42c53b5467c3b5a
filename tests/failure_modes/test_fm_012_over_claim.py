"""FM_012: one claim takes far more jobs than its limit.

A worker with one free slot asks for one job, by the statement that is in every tutorial:
`DELETE ... WHERE id IN (SELECT id ... LIMIT 1 FOR UPDATE SKIP LOCKED)`. PostgreSQL may run the
sub-select once, or once for each row of the table; that is the planner's choice, and it depends on
statistics. In the second case each run skips what is taken already, locks the next row and returns
it: the worker leases the whole queue, runs one job, and lets the others' leases expire.

The fix is to take the rows by an array that is made before the first one is taken (I10). It is
tried under every combination of eight planner switches.
"""

from __future__ import annotations

import pytest

from jobq.failure_modes.fm_012_over_claim import (
    JOBS,
    LIMIT,
    STEPS,
    SWITCHES,
    force,
    play,
    reproduce,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import LEASE_S, TASK, Shop
from jobq.failure_modes.transactions import Parties
from jobq.store.step import Statement, Step

NESTED = dict.fromkeys(("enable_hashagg", "enable_hashjoin", "enable_material"), "off")
NESTED["enable_sort"] = "off"
"""What it takes, and no more, to have the sub-select run for every row."""

UNLOCKED = "SELECT job_id FROM jobq.ready FOR UPDATE SKIP LOCKED"


def test_reproduces_a_claim_of_the_whole_queue(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop)

    assert found.is_harmed
    for name in STEPS:
        taken = found.seen[name]
        assert taken[JOBS] >= 1, f"{name}: LIMIT {LIMIT} was taken for no limit at all"
        assert taken[LIMIT] > taken[JOBS], "the usual plans hide it: the tests pass for years"
        assert taken.total() == 2 ** len(SWITCHES)


def test_prevented_under_every_plan(postgres_shop: Shop) -> None:
    found = play(postgres_shop)

    assert not found.is_harmed
    for taken in found.seen.values():
        assert taken == {LIMIT: 2 ** len(SWITCHES)}
    assert not violations(postgres_shop, is_every_commit_charged=False)


@pytest.mark.parametrize("limit", [1, 3, JOBS])
@pytest.mark.parametrize("switches", [{}, NESTED], ids=["usual plan", "nested plan"])
def test_prevented_for_the_rows_that_are_only_locked(
    postgres_shop: Shop, parties: Parties, switches: dict[str, str], limit: int
) -> None:
    """A row that is locked and not taken is one that the other workers pass over."""
    postgres_shop.enqueue_many(JOBS)
    taking, looking = parties.open(), parties.open()
    force(taking, switches)

    claimed = taking.run(
        postgres_shop.database.store.claim(
            worker="A", queues=["default"], tasks=[TASK], limit=limit, lease_s=LEASE_S
        )
    )

    assert len(claimed) == limit
    assert len(looking.run(_unlocked())) == JOBS - limit


def test_prevented_across_queues(postgres_shop: Shop) -> None:
    """The limit is one for all the queues that a worker serves, not one for each."""
    for queue in ("first", "second", "third"):
        for _ in range(3):
            postgres_shop.enqueue(queue=queue)

    claimed = postgres_shop.claim("A", 4, queues=["first", "second", "third"])

    assert [job.queue for job in claimed] == ["first"] * 3 + ["second"]


def _unlocked() -> Step[list[object]]:
    return list((yield Statement(UNLOCKED, {})))

"""FM_004: a zombie's late report changes the attempt that took its place.

Worker A was paused past its lease, and worker B runs the job. A has no effect to apply any more;
it only reports, as workers do: "done", "failed", "still alive". A queue that looks the job up by
its id believes A. Its "done" ends B's attempt; its "failed" sends the job to C while B runs; its
heartbeat keeps B's lease alive when B is dead.

The fix is the lease token in every write of an attempt (invariant I4): a report of a lost lease
meets zero rows, and is told so.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobq.failure_modes.fm_004_zombie_reports import (
    REPORTS,
    lease_rows,
    play,
    reports_by_job_id,
    reproduce,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from jobq.protocol.states import Stage, State
from jobq.protocol.values import Lease


def test_reproduces_three_late_reports_that_are_believed(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.is_harmed
    success, failure, heartbeat = (found.seen[report] for report in REPORTS)
    assert success["state_while_b_works"] is State.DONE, "while B was still working on it"
    assert success["b_is_refused"], "the work that was really done is thrown away"
    assert failure["state_while_b_works"] is State.SCHEDULED
    assert failure["attempts_at_once"] == 2, "C was given the job while B had it"
    assert not heartbeat["is_b_undisturbed"], "the lease of B is extended by A"
    assert not any(seen["is_refused"] for seen in found.seen.values()), "and A is told nothing"


def test_prevented_for_every_late_report(shop: Shop) -> None:
    found = play(shop)

    assert not found.is_harmed
    for seen in found.seen.values():
        assert seen == {
            "is_refused": True,
            "is_b_undisturbed": True,
            "state_while_b_works": State.LEASED,
            "attempts_at_once": 1,
            "b_is_refused": False,
            "final_state": State.DONE,
        }
    assert shop.ledger() == ["B", "B", "B"]
    assert not violations(shop, is_every_commit_charged=True)


def test_prevented_with_a_reason_for_the_audit(shop: Shop) -> None:
    shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    shop.claim_one("B")

    (success,) = shop.complete(a)
    (failure,) = shop.fail(a).refused

    assert (success.lease, success.stage, success.reason) == (a, Stage.COMMIT, "lease_lost")
    assert (failure.lease, failure.stage, failure.reason) == (a, Stage.FAIL, "lease_lost")


@pytest.mark.parametrize("say", REPORTS.values(), ids=REPORTS)
@pytest.mark.parametrize("fate", ["done", "dead", "waiting"])
def test_prevented_when_the_job_has_moved_on(
    shop: Shop, say: Callable[[Shop, Lease], bool], fate: str
) -> None:
    """Nobody holds a lease any more, and a late report must not invent one or a second fate."""
    job_id = shop.enqueue(max_attempts=2)
    a = shop.claim_one("A")
    shop.recover(a)
    if fate != "waiting":
        b = shop.claim_one("B")
        if fate == "done":
            shop.complete(b)
        else:
            shop.fail(b)
    before = shop.job(job_id), shop.records(), len(shop.attempts(job_id))

    assert say(shop, a)

    assert (shop.job(job_id), shop.records(), len(shop.attempts(job_id))) == before


def test_prevented_when_the_same_worker_has_the_job_again(shop: Shop) -> None:
    """The worker's name does not tell its two attempts apart; the token does."""
    job_id = shop.enqueue()
    first = shop.claim_one("A")
    shop.recover(first)
    second = shop.claim_one("A")
    before = lease_rows(shop, job_id)

    assert all(say(shop, first) for say in REPORTS.values())

    assert lease_rows(shop, job_id) == before
    assert not shop.complete(second)


def test_a_late_finalize_ends_nothing_that_is_not_committed(shop: Shop) -> None:
    """Finalize names no token: it asks for the record, and may come from anyone."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")

    shop.finalize(a)

    assert shop.state(job_id) is State.LEASED
    assert not shop.complete(b)


def test_a_dead_worker_stays_alive_by_a_zombies_heartbeat(shop: Shop) -> None:
    """Without the token B's job is never recovered, for as long as A goes on."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")
    shop.expire(b)  # B is dead

    shop.heartbeat("A", a)
    assert shop.reconcile().retried == (job_id,), "jobq recovers it"

    shop.promote()
    shop.expire(shop.claim_one("B"))
    shop.weaken(reports_by_job_id)
    shop.heartbeat("A", a)
    assert shop.reconcile().total == 0, "the weakened queue does not"

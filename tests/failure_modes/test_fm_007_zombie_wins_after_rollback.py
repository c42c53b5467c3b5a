"""FM_007: a zombie waits behind the newer attempt and commits when that one rolls back.

Worker A lost its lease to worker B. B has written its commit record and is inside its effect when
A wakes up and writes its own. With nothing but a unique key, A waits there for as long as B's
transaction takes; and when B rolls back, the key is free and A commits, on a lease it lost and
with a token smaller than one that has been handed out since.

The fix is the join to the live lease in the statement that writes the record (invariant I4): A's
lease is gone, so there is no row to insert and nothing to wait for.
"""

from __future__ import annotations

from jobq.errors import LeaseLost
from jobq.failure_modes.fm_007_zombie_wins_after_rollback import bare_record, play, reproduce
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from jobq.protocol.states import State


def test_reproduces_a_commit_on_a_lost_lease(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.seen["has_waited"] is not shop.is_sqlite
    assert found.seen["refusal"] is None
    assert found.seen["charged_by"] == ["A"]
    ((token, _),) = found.seen["records"]
    assert token < found.seen["newest_token_when_a_came"], "an older attempt than the newest won"
    assert found.is_harmed


def test_reproduces_the_wait_when_b_commits(postgres_shop: Shop) -> None:
    """The key does its work then; A was held up for all of B's transaction to learn it."""
    postgres_shop.weaken(bare_record)

    found = play(postgres_shop, b_commits=True)

    assert found.seen["has_waited"]
    assert found.seen["refusal"] == "AlreadyCommitted"
    assert found.seen["charged_by"] == ["B"]


def test_prevented_under_the_same_interleaving(shop: Shop) -> None:
    found = play(shop)

    assert not found.seen["has_waited"], "A is refused while B is still at work"
    assert found.seen["refusal"] == "LeaseLost"
    assert found.seen["charged_by"] == ["C"], "B's failure is retried as any other"
    assert found.seen["state"] is State.DONE
    assert not found.is_harmed
    assert not violations(shop, is_every_commit_charged=True)


def test_prevented_from_waiting_when_b_commits(postgres_shop: Shop) -> None:
    found = play(postgres_shop, b_commits=True)

    assert not found.seen["has_waited"]
    assert found.seen["refusal"] == "LeaseLost", "before B's record could be seen"
    assert found.seen["charged_by"] == ["B"]


def test_reproduces_a_commit_of_a_job_that_stands_in_line(shop: Shop) -> None:
    """No B is needed: between recovery and the next claim nobody has the job, and no record
    stands in A's way. The job is then committed and ready at once, and runs again."""
    shop.weaken(bare_record)
    late = zombie_of_a_ready_job(shop)

    assert late is None
    assert "every job is in exactly one place" in violations(shop, is_every_commit_charged=True)


def test_prevented_when_the_job_stands_in_line(shop: Shop) -> None:
    late = zombie_of_a_ready_job(shop)

    assert isinstance(late, LeaseLost)
    assert shop.ledger() == []
    assert not violations(shop, is_every_commit_charged=True)


def zombie_of_a_ready_job(shop: Shop) -> BaseException | None:
    shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    late = shop.effect(a, "A")
    late.charge()
    late.commit()
    return late.refusal

"""A step's result is recorded once, by an attempt that holds its lease, and given to all after it.

Two attempts that race on one step are driven statement by statement: the call is made by hand.
"""

from __future__ import annotations

import pytest

from jobq.commit import commit_effect_idempotent
from jobq.errors import AlreadyCommitted, LeaseLost
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import Parties
from jobq.protocol.outside import RecordedStep
from jobq.protocol.retention import DAY_S, Retention, RetentionPolicy
from jobq.protocol.states import Outcome, State
from jobq.protocol.values import Lease, Recovered
from jobq.store.steps import find_step, record_step, steps_of


def find(shop: Shop, lease: Lease, name: str = "charge") -> str | None:
    return shop.database.run(find_step(shop.database.store.portable, lease, name))


def record(shop: Shop, lease: Lease, result: str, name: str = "charge") -> str:
    return shop.database.run(record_step(shop.database.store.portable, lease, name, result))


def recorded(shop: Shop, job_id: int) -> list[RecordedStep]:
    return shop.database.run(steps_of(shop.database.store.portable, job_id))


def test_a_later_attempt_finds_what_an_earlier_one_recorded(shop: Shop) -> None:
    job_id = shop.enqueue()
    other_id = shop.enqueue()
    a, other = (claimed.lease for claimed in shop.claim("A", limit=2))
    assert find(shop, a) is None
    assert record(shop, a, '"receipt 1"') == '"receipt 1"'

    shop.recover(a)
    b = shop.claim_one("B")

    assert find(shop, b) == '"receipt 1"'
    assert find(shop, b, "mail") is None
    assert find(shop, other) is None, "another job's step of the same name"
    (step,) = recorded(shop, job_id)
    assert (step.name, step.result, step.token) == ("charge", '"receipt 1"', a.token)
    assert recorded(shop, other_id) == []


def test_a_zombie_neither_begins_a_step_nor_records_one(shop: Shop) -> None:
    """It was making its call when its lease was recovered; the next attempt has not begun."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    assert find(shop, a) is None
    shop.recover(a)

    with pytest.raises(LeaseLost):
        find(shop, a)
    with pytest.raises(LeaseLost):
        record(shop, a, '"zombie"')

    assert recorded(shop, job_id) == []


def test_of_two_attempts_at_one_step_only_the_live_one_records(shop: Shop) -> None:
    """Both have made the call. Whoever tells first, the zombie is refused, and B's word stays."""
    for is_zombie_first in (True, False):
        job_id = shop.enqueue()
        a = shop.claim_one("A")
        assert find(shop, a) is None
        shop.recover(a)
        b = shop.claim_one("B")
        assert find(shop, b) is None

        if not is_zombie_first:
            record(shop, b, '"B"')
        with pytest.raises(LeaseLost):
            record(shop, a, '"A"')
        assert record(shop, b, '"B"') == '"B"'

        assert [(step.result, step.token) for step in recorded(shop, job_id)] == [('"B"', b.token)]
        shop.complete(b)


def test_a_lease_is_not_taken_away_while_its_step_is_being_recorded(
    postgres_shop: Shop, parties: Parties
) -> None:
    """The record is written, not committed: the reconciler passes by, so that no attempt can begin
    that would not see it."""
    shop = postgres_shop
    shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(a)
    recording = parties.open()
    recording.run(record_step(shop.database.store.portable, a, "charge", '"A"'))

    assert shop.reconcile() == Recovered()
    recording.commit()
    assert shop.reconcile().total == 1
    shop.promote()

    assert find(shop, shop.claim_one("B")) == '"A"'


def test_a_step_waits_for_a_recovery_and_is_refused_by_it(
    postgres_shop: Shop, parties: Parties
) -> None:
    """The other way round: the recovery came first, and commits while the step waits for it."""
    shop = postgres_shop
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(a)
    recovery, recording = parties.open(), parties.open()
    assert recovery.run(shop.database.store.reconcile(10, lambda _: 0.0)).total == 1

    late = recording.start(record_step(shop.database.store.portable, a, "charge", '"A"'))
    parties.wait_until_blocked(recording.pid)
    recovery.commit()

    with pytest.raises(LeaseLost):
        late.result()
    recording.rollback()
    assert recorded(shop, job_id) == []


def test_an_attempts_own_earlier_try_wins_over_its_second(
    postgres_shop: Shop, parties: Parties
) -> None:
    """Its answer was lost and it was made again: the first was under way all the time."""
    shop = postgres_shop
    shop.enqueue()
    a = shop.claim_one("A")
    first, second = parties.open(), parties.open()
    first.run(record_step(shop.database.store.portable, a, "charge", '"first"'))

    told = second.start(record_step(shop.database.store.portable, a, "charge", '"second"'))
    parties.wait_until_blocked(second.pid)
    first.commit()

    assert told.result() == '"first"'
    second.commit()
    assert find(shop, a) == '"first"'


def test_heartbeats_go_on_while_a_step_is_being_recorded(
    postgres_shop: Shop, parties: Parties
) -> None:
    shop = postgres_shop
    shop.enqueue()
    a = shop.claim_one("A")
    parties.open().run(record_step(shop.database.store.portable, a, "charge", "1"))

    beat = parties.open().run(shop.database.store.heartbeat("A", [a], 60.0))

    assert not beat.lost


def test_a_cancelled_job_begins_no_step_and_keeps_the_one_under_way(shop: Shop) -> None:
    """The call was made: an operator who brings the job back should not have it made again."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    assert find(shop, a) is None
    assert shop.cancel(job_id)

    assert record(shop, a, '"made"') == '"made"'
    with pytest.raises(AlreadyCommitted) as refused:
        find(shop, a, "mail")

    assert refused.value.outcome is Outcome.CANCELLED
    shop.finalize(a)
    with pytest.raises(AlreadyCommitted):
        record(shop, a, '"mailed"', "mail")
    assert [step.name for step in recorded(shop, job_id)] == ["charge"]


def test_a_step_outlives_the_effect_that_rolls_back(shop: Shop) -> None:
    shop.enqueue()
    a = shop.claim_one("A")
    record(shop, a, '"made"')
    with (
        pytest.raises(ValueError, match="no"),
        commit_effect_idempotent(shop.database, a, shop.driver),
    ):
        raise ValueError("no")
    shop.fail(a)
    shop.promote()

    assert find(shop, shop.claim_one("B")) == '"made"'


def test_steps_are_pruned_with_their_job(shop: Shop) -> None:
    pruned, kept = shop.enqueue(), shop.enqueue()
    for claimed in shop.claim("A", limit=2):
        record(shop, claimed.lease, "1")
        shop.complete(claimed.lease)
    shop.grow_old(pruned, age_s=30 * DAY_S)

    shop.prune(RetentionPolicy(otherwise=Retention(committed_s=DAY_S)))

    assert recorded(shop, pruned) == []
    assert len(recorded(shop, kept)) == 1
    assert shop.state(kept) is State.DONE

"""Begun attempts that end in doubt are buried or parked; what a person decides holds once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from jobq.commit import commit_effect_idempotent
from jobq.errors import AlreadyCommitted, LeaseLost
from jobq.failure_modes.shop import BOOM, Shop, charge
from jobq.failure_modes.transactions import Parties
from jobq.protocol.decisions import EXPIRED, NOT_REPEATED
from jobq.protocol.outside import AmbiguousJob, OutsideEffects, Resolution
from jobq.protocol.states import AttemptEnd, State
from jobq.protocol.values import FailedAttempt, Lease
from jobq.store.ambiguous import ambiguous_jobs, resolve
from jobq.store.steps import begin

ASK, AT_MOST_ONCE = OutsideEffects.ASK, OutsideEffects.AT_MOST_ONCE


def begun(shop: Shop, policy: OutsideEffects, *, max_attempts: int = 5) -> Lease:
    shop.enqueue(max_attempts=max_attempts)
    lease = shop.claim_one("A")
    begin_handler(shop, lease, policy)
    return lease


def begin_handler(shop: Shop, lease: Lease, policy: OutsideEffects) -> None:
    shop.database.run(begin(shop.database.store.portable, lease, policy))


def listed(shop: Shop, *, after: int = 0, limit: int = 100) -> list[AmbiguousJob]:
    return shop.database.run(ambiguous_jobs(shop.database.store.portable, after, limit))


def decide(shop: Shop, job: AmbiguousJob, resolution: Resolution) -> bool:
    return shop.database.run(resolve(shop.database.store.portable, job, resolution))


def end_as(end: AttemptEnd) -> Callable[[Shop, Lease], object]:
    def report(shop: Shop, lease: Lease) -> object:
        failure = FailedAttempt(lease, end, BOOM, 0.0)
        return shop.database.run(shop.database.store.fail([failure]))

    return report


ENDINGS = {
    "its lease expires": Shop.recover,
    "its worker stops": end_as(AttemptEnd.INTERRUPTED),
    "its handler raises": end_as(AttemptEnd.FAILED),
}
every_ending = pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS.keys())


@every_ending
def test_an_attempt_that_begins_at_most_once_is_never_repeated(
    shop: Shop, end: Callable[[Shop, Lease], object]
) -> None:
    a = begun(shop, AT_MOST_ONCE)

    end(shop, a)

    shop.promote()
    assert shop.claim("B") == []
    status = shop.job(a.job_id)
    assert (status.state, status.attempts) == (State.DEAD, 1)
    (attempt,) = shop.attempts(a.job_id)
    assert attempt.error is not None
    assert attempt.error.message.endswith(NOT_REPEATED)


@every_ending
def test_an_attempt_that_begins_and_is_to_ask_is_parked(
    shop: Shop, end: Callable[[Shop, Lease], object]
) -> None:
    """On its last attempt as on any."""
    for max_attempts in (1, 5):
        a = begun(shop, ASK, max_attempts=max_attempts)

        end(shop, a)

        assert shop.promote() == 0
        assert shop.claim("B") == []
        status = shop.job(a.job_id)
        assert (status.state, status.attempts, status.recorded_at) == (State.AMBIGUOUS, 1, None)
    store = shop.database.store
    assert shop.database.run(store.counts())[State.AMBIGUOUS] == 2


@pytest.mark.parametrize("policy", [ASK, AT_MOST_ONCE])
def test_what_ended_by_its_own_word_is_not_in_doubt(shop: Shop, policy: OutsideEffects) -> None:
    committed, returned, snoozed = (begun(shop, policy) for _ in range(3))
    with commit_effect_idempotent(shop.database, committed, shop.driver) as connection:
        charge(connection, committed, "A")
    shop.complete(returned)
    end_as(AttemptEnd.SNOOZED)(shop, snoozed)
    shop.recover(committed)

    assert shop.state(committed.job_id) is State.DONE
    assert shop.state(returned.job_id) is State.DONE
    assert shop.job(snoozed.job_id).attempts == 0
    again = shop.claim_one("B")
    assert again.job_id == snoozed.job_id
    shop.recover(again)
    assert shop.state(snoozed.job_id) is State.READY, "the new attempt had not begun"


@pytest.mark.parametrize("policy", [ASK, AT_MOST_ONCE])
def test_an_attempt_that_never_began_is_retried_as_ever(shop: Shop, policy: OutsideEffects) -> None:
    """Claimed ahead, say, by a worker that was killed; the policy is on the begun lease only."""
    other = begun(shop, policy)
    shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(other)
    shop.recover(a)

    assert shop.claim_one("B").job_id == a.job_id


def test_an_attempt_that_lost_its_lease_or_its_job_does_not_begin(shop: Shop) -> None:
    shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")
    with pytest.raises(LeaseLost):
        begin_handler(shop, a, AT_MOST_ONCE)
    shop.recover(b)
    c = shop.claim_one("C")
    assert c.job_id == b.job_id, "the zombie's beginning is not B's"

    shop.cancel(c.job_id)
    with pytest.raises(AlreadyCommitted):
        begin_handler(shop, c, AT_MOST_ONCE)


def test_a_beginning_and_a_recovery_at_once_cannot_both_win(
    postgres_shop: Shop, parties: Parties
) -> None:
    """The lease expired before its handler began: whichever comes first, no attempt runs twice."""
    shop = postgres_shop
    shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(a)
    starting, recovery = parties.open(), parties.open()
    starting.run(begin(shop.database.store.portable, a, AT_MOST_ONCE))
    assert recovery.run(shop.database.store.reconcile(10, lambda _: 0.0)).total == 0
    recovery.commit()
    starting.commit()
    assert shop.reconcile().dead == (a.job_id,)

    shop.enqueue()
    b = shop.claim_one("B")
    shop.expire(b)
    assert recovery.run(shop.database.store.reconcile(10, lambda _: 0.0)).retried == (b.job_id,)
    late = starting.start(begin(shop.database.store.portable, b, AT_MOST_ONCE))
    parties.wait_until_blocked(starting.pid)
    recovery.commit()
    with pytest.raises(LeaseLost):
        late.result()


def test_what_is_parked_is_shown_with_the_attempt_in_doubt(shop: Shop) -> None:
    job_ids = []
    for _ in range(3):
        lease = begun(shop, ASK)
        shop.recover(lease)
        job_ids.append(lease.job_id)

    found = listed(shop)

    assert [job.id for job in found] == job_ids
    first, status = found[0], shop.job(job_ids[0])
    (attempt,) = shop.attempts(first.id)
    assert (first.task, first.queue, first.args) == (status.task, status.queue, status.args)
    assert first.idempotency_key == status.idempotency_key
    assert (first.token, first.attempt, first.worker) == (1, 1, "A")
    assert first.started_at == attempt.started_at
    assert first.error == attempt.error == EXPIRED
    assert first.parked_at >= attempt.started_at
    assert [job.id for job in listed(shop, after=job_ids[0], limit=1)] == [job_ids[1]]


@pytest.mark.parametrize(
    ("resolution", "state"),
    [
        (Resolution.DONE, State.DONE),
        (Resolution.BURY, State.DEAD),
        (Resolution.RETRY, State.SCHEDULED),
    ],
)
def test_a_decision_holds_once(shop: Shop, resolution: Resolution, state: State) -> None:
    a = begun(shop, ASK, max_attempts=1)
    shop.recover(a)
    (job,) = listed(shop)

    assert decide(shop, job, resolution) is True

    assert shop.state(a.job_id) is state
    assert [decide(shop, job, other) for other in Resolution] == [False] * 3
    assert shop.state(a.job_id) is state
    assert listed(shop) == []
    with pytest.raises((LeaseLost, AlreadyCommitted)):
        begin_handler(shop, a, ASK)


def test_a_retried_job_has_its_attempt_back_and_a_newer_token(shop: Shop) -> None:
    a = begun(shop, ASK, max_attempts=1)
    shop.recover(a)
    (job,) = listed(shop)
    decide(shop, job, Resolution.RETRY)
    shop.promote()

    (claimed,) = shop.claim("B")

    assert (claimed.lease.job_id, claimed.attempt) == (a.job_id, 1)
    assert claimed.lease.token > a.token


def test_a_decision_about_one_attempt_says_nothing_about_the_next(shop: Shop) -> None:
    """Ada looks; Bob has it retried; it is ambiguous anew; Ada presses the button."""
    a = begun(shop, ASK)
    shop.recover(a)
    (seen_by_ada,) = listed(shop)
    decide(shop, seen_by_ada, Resolution.RETRY)
    shop.promote()
    b = shop.claim_one("B")
    begin_handler(shop, b, ASK)
    shop.recover(b)

    assert decide(shop, seen_by_ada, Resolution.DONE) is False

    assert shop.state(a.job_id) is State.AMBIGUOUS
    (job,) = listed(shop)
    assert decide(shop, job, Resolution.DONE) is True


def test_of_two_people_at_once_one_decides(postgres_shop: Shop, parties: Parties) -> None:
    """Whatever they decide; when the first is undone, the second decides."""
    shop, portable = postgres_shop, postgres_shop.database.store.portable
    places = {
        Resolution.DONE: State.DONE,
        Resolution.BURY: State.DEAD,
        Resolution.RETRY: State.SCHEDULED,
    }
    ada, bob = parties.open(), parties.open()
    for first, second, is_first_undone in product(Resolution, Resolution, (False, True)):
        a = begun(shop, ASK)
        shop.recover(a)
        (job,) = listed(shop)
        assert ada.run(resolve(portable, job, first)) is True
        told = bob.start(resolve(portable, job, second))
        parties.wait_until_blocked(bob.pid)

        if is_first_undone:
            ada.rollback()
        else:
            ada.commit()

        assert told.result() is is_first_undone
        bob.commit()
        assert shop.state(a.job_id) is places[second if is_first_undone else first]


def test_an_ambiguous_job_can_be_cancelled_and_is_then_no_more_to_be_decided(shop: Shop) -> None:
    a = begun(shop, ASK)
    shop.recover(a)
    (job,) = listed(shop)

    assert shop.cancel(a.job_id) is True

    assert shop.state(a.job_id) is State.CANCELLED
    assert decide(shop, job, Resolution.RETRY) is False
    assert listed(shop) == []


def test_a_cancel_and_a_decision_at_once(postgres_shop: Shop, parties: Parties) -> None:
    """The cancel finds the row gone, and the job where the decision has put it."""
    shop = postgres_shop
    a = begun(shop, ASK)
    shop.recover(a)
    (job,) = listed(shop)
    deciding, cancelling = parties.open(), parties.open()
    deciding.run(resolve(shop.database.store.portable, job, Resolution.RETRY))
    cancelled = cancelling.start(shop.database.store.cancel(a.job_id))
    parties.wait_until_blocked(cancelling.pid)
    deciding.commit()

    assert cancelled.result() is True
    cancelling.commit()
    assert shop.state(a.job_id) is State.CANCELLED
    assert shop.promote() == 0


def test_a_cancelled_attempt_is_not_in_doubt(shop: Shop) -> None:
    a = begun(shop, ASK)
    shop.cancel(a.job_id)
    shop.recover(a)
    assert shop.state(a.job_id) is State.CANCELLED

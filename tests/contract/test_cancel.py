"""Cancelling a job: one more way to a fate, racing with all the others for the same row."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobq.commit import commit_effect_idempotent
from jobq.errors import AlreadyCommitted, JobNotFound
from jobq.failure_modes.shop import BOOM, LEASE_S, TASK, Shop, charge
from jobq.failure_modes.transactions import OpenTransaction, Parties
from jobq.protocol.states import AttemptEnd, Outcome, State
from jobq.protocol.values import FailedAttempt, Lease
from jobq.store.step import Step


def cancel(shop: Shop, job_id: int) -> bool:
    return shop.database.run(shop.database.store.cancel(job_id))


def test_a_ready_job_never_runs(shop: Shop) -> None:
    job_id = shop.enqueue()

    assert cancel(shop, job_id) is True

    assert shop.state(job_id) is State.CANCELLED
    assert shop.claim("A") == []


def test_a_scheduled_job_never_becomes_due(shop: Shop) -> None:
    job_id = shop.enqueue()
    shop.fail(shop.claim_one("A"), retry_delay_s=0.0)
    assert shop.state(job_id) is State.SCHEDULED

    assert cancel(shop, job_id) is True

    assert shop.promote() == 0
    assert shop.state(job_id) is State.CANCELLED


def test_a_running_job_is_refused_at_its_commit(shop: Shop) -> None:
    job_id = shop.enqueue()
    a = shop.claim_one("A")

    assert cancel(shop, job_id) is True
    with (
        pytest.raises(AlreadyCommitted) as refused,
        commit_effect_idempotent(shop.database, a, shop.driver) as connection,
    ):
        charge(connection, a, "A")

    assert refused.value.outcome is Outcome.CANCELLED
    assert shop.ledger() == []
    shop.finalize(a)
    assert shop.state(job_id) is State.CANCELLED


def test_a_running_job_without_an_effect_is_refused_when_it_returns(shop: Shop) -> None:
    """The record of the cancel bears the attempt's token, and is not the attempt's own."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    assert shop.cancel(job_id)

    (refused,) = shop.complete(a)

    assert refused.reason == "already_cancelled"
    assert shop.state(job_id) is State.CANCELLED


def test_a_running_job_that_is_cancelled_and_fails_is_not_retried(shop: Shop) -> None:
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    cancel(shop, job_id)

    shop.fail(a)

    assert shop.state(job_id) is State.CANCELLED
    assert shop.promote() == 0


def test_a_running_job_that_is_cancelled_and_given_back_does_not_run(shop: Shop) -> None:
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    cancel(shop, job_id)

    shop.database.run(shop.database.store.release([a]))

    assert shop.state(job_id) is State.CANCELLED
    assert shop.claim("B") == []


def test_a_cancelled_job_whose_worker_died_is_not_retried(shop: Shop) -> None:
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    cancel(shop, job_id)

    shop.recover(a)

    assert shop.state(job_id) is State.CANCELLED
    assert shop.claim("B") == []


def test_a_fate_is_never_replaced(shop: Shop) -> None:
    committed, dead, cancelled = shop.enqueue(), shop.enqueue(max_attempts=1), shop.enqueue()
    leases = [claimed.lease for claimed in shop.claim("A", limit=3)]
    with commit_effect_idempotent(shop.database, leases[0], shop.driver) as connection:
        charge(connection, leases[0], "A")
    shop.fail(leases[1])
    assert cancel(shop, cancelled) is True

    assert [cancel(shop, job_id) for job_id in (committed, dead, cancelled)] == [False] * 3

    shop.finalize(leases[0])
    shop.finalize(leases[2])
    assert [shop.state(job_id) for job_id in (committed, dead, cancelled)] == [
        State.DONE,
        State.DEAD,
        State.CANCELLED,
    ]


def test_a_job_that_is_not_there(shop: Shop) -> None:
    with pytest.raises(JobNotFound, match="no job 12345"):
        cancel(shop, 12345)


# -- races, on PostgreSQL: the other step holds its rows in an open transaction


def claiming(shop: Shop, other: OpenTransaction) -> object:
    step = shop.database.store.claim(
        worker="A", queues=["default"], tasks=[TASK], limit=1, lease_s=LEASE_S
    )
    return other.run(step)


def promoting(shop: Shop, other: OpenTransaction) -> object:
    return other.run(shop.database.store.promote(10))


def failing(shop: Shop, other: OpenTransaction) -> object:
    (lease,) = leases_of(shop)
    failure = FailedAttempt(lease, AttemptEnd.FAILED, BOOM, 0.0)
    return other.run(shop.database.store.fail([failure]))


def burying(shop: Shop, other: OpenTransaction) -> object:
    (lease,) = leases_of(shop)
    failure = FailedAttempt(lease, AttemptEnd.FAILED, BOOM, None)
    return other.run(shop.database.store.fail([failure]))


def releasing(shop: Shop, other: OpenTransaction) -> object:
    return other.run(shop.database.store.release(leases_of(shop)))


def recovering(shop: Shop, other: OpenTransaction) -> object:
    shop.expire(*leases_of(shop))
    return other.run(shop.database.store.reconcile(10, lambda _: 0.0))


def completing(shop: Shop, other: OpenTransaction) -> object:
    return other.run(shop.database.store.complete(leases_of(shop)))


def leases_of(shop: Shop) -> list[Lease]:
    return [Lease(*row) for row in shop.sql("SELECT job_id, token FROM jobq.leases")]


def make_ready(shop: Shop) -> int:
    return shop.enqueue()


def make_leased(shop: Shop) -> int:
    job_id = shop.enqueue()
    shop.claim_one("A")
    return job_id


def make_scheduled(shop: Shop) -> int:
    job_id = shop.enqueue()
    shop.fail(shop.claim_one("A"))
    return job_id


RACES = [
    (make_ready, claiming, State.CANCELLED),
    (make_scheduled, promoting, State.CANCELLED),
    (make_leased, failing, State.CANCELLED),
    (make_leased, releasing, State.CANCELLED),
    (make_leased, recovering, State.CANCELLED),
    (make_leased, burying, State.DEAD),
    (make_leased, completing, State.DONE),
]


@pytest.mark.parametrize("crashes", [False, True], ids=["commits", "crashes"])
@pytest.mark.parametrize(
    ("make", "move", "fate"), RACES, ids=[move.__name__ for _, move, _ in RACES]
)
def test_cancel_waits_for_a_move_under_way_and_then_finds_the_job(
    postgres_shop: Shop,
    parties: Parties,
    make: Callable[[Shop], int],
    move: Callable[[Shop, OpenTransaction], object],
    fate: State,
    crashes: bool,
) -> None:
    shop = postgres_shop
    job_id = make(shop)
    mover, canceller = parties.open(), parties.open()

    move(shop, mover)
    cancelled = canceller.start(shop.database.store.cancel(job_id))
    parties.wait_until_blocked(canceller.pid)
    if crashes:
        mover.rollback()
    else:
        mover.commit()
    was_open = cancelled.result(timeout=30)
    canceller.commit()

    assert was_open is (crashes or fate is State.CANCELLED)
    for lease in leases_of(shop):
        shop.finalize(lease)
    assert shop.state(job_id) is (State.CANCELLED if crashes else fate)


@pytest.mark.parametrize("crashes", [False, True], ids=["commits", "crashes"])
def test_cancel_waits_for_a_commit_under_way(
    postgres_shop: Shop, parties: Parties, crashes: bool
) -> None:
    """FM_029: the record is written and not committed; whoever inserts first decides."""
    shop = postgres_shop
    job_id = make_leased(shop)
    (a,) = leases_of(shop)
    committing, canceller = parties.open(), parties.open()
    committing.run(shop.database.store.commit_record(a))
    committing.sql(f"INSERT INTO ledger VALUES ({job_id}, 'A')")

    cancelled = canceller.start(shop.database.store.cancel(job_id))
    parties.wait_until_blocked(canceller.pid)
    if crashes:
        committing.rollback()
    else:
        committing.commit()

    assert cancelled.result(timeout=30) is crashes
    canceller.commit()
    shop.finalize(a)
    assert shop.state(job_id) is (State.CANCELLED if crashes else State.DONE)
    assert shop.ledger() == ([] if crashes else ["A"])


def held_cancel(shop: Shop, canceller: OpenTransaction, job_id: int) -> None:
    assert canceller.run(shop.database.store.cancel(job_id)) is True


@pytest.mark.parametrize("crashes", [False, True], ids=["commits", "crashes"])
def test_a_commit_waits_for_a_cancel_under_way(
    postgres_shop: Shop, parties: Parties, crashes: bool
) -> None:
    shop = postgres_shop
    job_id = make_leased(shop)
    (a,) = leases_of(shop)
    canceller, committing = parties.open(), parties.open()
    held_cancel(shop, canceller, job_id)

    recorded = committing.start(shop.database.store.commit_record(a))
    parties.wait_until_blocked(committing.pid)
    if crashes:
        canceller.rollback()
        assert recorded.result(timeout=30).lease == a
        committing.sql(f"INSERT INTO ledger VALUES ({job_id}, 'A')")
        committing.commit()
    else:
        canceller.commit()
        with pytest.raises(AlreadyCommitted):
            recorded.result(timeout=30)
        committing.rollback()

    shop.finalize(a)
    assert shop.state(job_id) is (State.DONE if crashes else State.CANCELLED)


def test_recovery_and_failure_leave_a_job_alone_whose_cancel_is_under_way(
    postgres_shop: Shop, parties: Parties
) -> None:
    """The record is not committed yet, so nobody can see it; the lease's lock says enough."""
    shop = postgres_shop
    job_id = make_leased(shop)
    (a,) = leases_of(shop)
    canceller = parties.open()
    held_cancel(shop, canceller, job_id)
    shop.expire(a)

    assert shop.reconcile().total == 0
    assert shop.fail(a).busy == {a}
    canceller.commit()

    shop.reconcile()
    assert shop.state(job_id) is State.CANCELLED
    assert shop.promote() == 0


def release_step(shop: Shop) -> Step[None]:
    return shop.database.store.release(leases_of(shop))


def test_giving_back_waits_for_a_cancel_under_way_and_sees_it(
    postgres_shop: Shop, parties: Parties
) -> None:
    shop = postgres_shop
    job_id = make_leased(shop)
    canceller, worker = parties.open(), parties.open()
    held_cancel(shop, canceller, job_id)

    released = worker.start(release_step(shop))
    parties.wait_until_blocked(worker.pid)
    canceller.commit()
    released.result(timeout=30)
    worker.commit()

    assert shop.state(job_id) is State.CANCELLED
    assert shop.claim("B") == []

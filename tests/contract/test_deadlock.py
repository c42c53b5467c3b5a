"""Two workers' turns take the same leases, and cannot deadlock.

Every transaction waits for leases in one pass, in the order of their job ids. Here the other turn
is that of a zombie that finalizes both jobs for the winner: one was committed, one cancelled.
"""

from __future__ import annotations

import pytest

from jobq.errors import AlreadyCommitted
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import WAIT_S, Parties
from jobq.protocol.states import AttemptEnd, State
from jobq.protocol.values import AttemptError, FailedAttempt, Lease
from jobq.store.base import NOTHING
from jobq.worker.reports import Reports

FAILED = AttemptError("ValueError", "boom", "")


@pytest.mark.parametrize("first_to_wait", ["W", "Z"])
def test_turns_over_the_same_leases_wait_in_one_order(
    postgres_shop: Shop, parties: Parties, first_to_wait: str
) -> None:
    shop, store = postgres_shop, postgres_shop.database.store
    committed, cancelled, of_zombie, of_worker = zombie_and_worker(shop)
    reports = {
        "W": Reports(returned=[of_worker[1]], committed=[of_worker[0]]),
        # In the other order, as they came.
        "Z": Reports(committed=[lease_of(shop, lease) for lease in reversed(of_zombie)]),
    }
    holder, w, z = parties.open(), parties.open(), parties.open()
    holder.sql(f"SELECT FROM jobq.leases WHERE job_id = {committed} FOR UPDATE")

    turns = {}
    for name in sorted(reports, reverse=first_to_wait == "Z"):
        party = w if name == "W" else z
        told = reports[name]
        turns[name] = party.start(store.exchange(told.returned, told.committed, NOTHING))
        parties.wait_until_blocked(party.pid)
    holder.rollback()
    first, second = sorted(turns, reverse=first_to_wait == "Z")
    turns[first].result(WAIT_S)
    (w if first == "W" else z).commit()
    turns[second].result(WAIT_S)
    (w if second == "W" else z).commit()

    assert shop.state(committed) is State.DONE
    assert shop.state(cancelled) is State.CANCELLED
    assert shop.sql("SELECT count(*) FROM jobq.leases") == [(0,)]


def test_a_failure_is_told_in_a_transaction_that_waits_for_no_lease(
    postgres_shop: Shop, parties: Parties
) -> None:
    """It holds the later lease; the zombie holds the earlier one and waits for it, and no longer
    than until the failure is told."""
    shop, store = postgres_shop, postgres_shop.database.store
    committed, cancelled, of_zombie, of_worker = zombie_and_worker(shop)
    w, z = parties.open(), parties.open()
    failed = FailedAttempt(of_worker[1], AttemptEnd.FAILED, FAILED, 0.0)

    w.run(Reports(failed=[failed]).explain(store, "W", ()))
    turn = z.start(store.exchange((), of_zombie, NOTHING))
    parties.wait_until_blocked(z.pid)
    w.commit()
    turn.result(WAIT_S)
    z.commit()

    assert shop.state(committed) is State.DONE
    assert shop.state(cancelled) is State.CANCELLED


def zombie_and_worker(shop: Shop) -> tuple[int, int, list[Lease], list[Lease]]:
    """Two jobs that Z lost to W, who has committed the first; the second was cancelled."""
    store = shop.database.store
    committed, cancelled = shop.enqueue(), shop.enqueue()
    of_zombie = [claimed.lease for claimed in shop.claim("Z", 2)]
    shop.expire(*of_zombie)
    shop.reconcile()
    shop.promote()
    of_worker = [claimed.lease for claimed in shop.claim("W", 2)]
    assert [lease.job_id for lease in of_worker] == [committed, cancelled]
    shop.database.run(store.commit_record(of_worker[0]))
    shop.database.run(store.cancel(cancelled))
    return committed, cancelled, of_zombie, of_worker


def lease_of(shop: Shop, lease: Lease) -> Lease:
    """The zombie's lease, once it was refused: what it has to finalize."""
    with pytest.raises(AlreadyCommitted):
        shop.database.run(shop.database.store.commit_record(lease))
    return lease

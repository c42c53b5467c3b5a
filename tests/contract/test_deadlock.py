"""Two workers' cycles can deadlock, and what is lost is a moment.

A step takes its leases in the order of their job ids. A cycle is several steps in one transaction,
so it can hold a later lease when it comes to an earlier one. The other cycle is that of a zombie
that finalizes both jobs for the winner: one was committed, one cancelled.
"""

from __future__ import annotations

import psycopg
import pytest

from jobq.database.postgres import PostgresDatabase
from jobq.errors import AlreadyCommitted, DatabaseUnavailable
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import WAIT_S, Parties
from jobq.protocol.states import AttemptEnd, Stage, State
from jobq.protocol.values import AttemptError, FailedAttempt, Lease, Record, RefusedReport
from jobq.worker.reports import Reports

FAILED = AttemptError("ValueError", "boom", "")


def refused(shop: Shop, lease: Lease) -> RefusedReport:
    with pytest.raises(AlreadyCommitted) as refusal:
        shop.database.run(shop.database.store.commit_record(lease))
    return RefusedReport(lease, Stage.COMMIT, Record(refusal.value.token, refusal.value.outcome))


def postgres(shop: Shop) -> PostgresDatabase:
    assert isinstance(shop.database, PostgresDatabase)
    return shop.database


@pytest.mark.parametrize("ending", ["returned", "failed"])
def test_cycles_that_deadlock_are_sent_again(
    postgres_shop: Shop, parties: Parties, ending: str
) -> None:
    shop, store = postgres_shop, postgres_shop.database.store
    committed, cancelled = shop.enqueue(), shop.enqueue()
    of_zombie = [claimed.lease for claimed in shop.claim("Z", 2)]
    shop.expire(*of_zombie)
    shop.reconcile()
    shop.promote()
    first, second = (claimed.lease for claimed in shop.claim("W", 2))
    assert (first.job_id, second.job_id) == (committed, cancelled)
    shop.database.run(store.commit_record(first))
    shop.database.run(store.cancel(cancelled))
    reports_of_zombie = Reports(refused=[refused(shop, lease) for lease in of_zombie])

    w, z = parties.open(), parties.open()
    if ending == "returned":
        reports = Reports(returned=[second])
    else:
        reports = Reports(failed=[FailedAttempt(second, AttemptEnd.FAILED, FAILED, 0.0)])
    # The first half of W's cycle; its second is to finalize what was committed.
    w.run(reports.send(store, "W"))
    cycle_of_zombie = z.start(reports_of_zombie.send(store, "Z"))
    parties.wait_until_blocked(z.pid)
    rest = w.start(Reports(committed=[first]).send(store, "W"))

    ended = {z: cycle_of_zombie.exception(WAIT_S), w: rest.exception(WAIT_S)}
    (victim,) = (party for party, error in ended.items() if error is not None)
    error = ended[victim]
    assert isinstance(error, psycopg.errors.DeadlockDetected)
    for party in ended:
        if party is victim:
            party.rollback()
        else:
            party.commit()

    # What a worker does about it: wait a little, as for a database that is away, and repeat.
    assert isinstance(postgres(shop)._translate(error), DatabaseUnavailable)
    again = [reports_of_zombie] if victim is z else [reports, Reports(committed=[first])]
    for cycle in again:
        shop.database.run(cycle.send(store, "again"))
    assert shop.state(committed) is State.DONE
    assert shop.state(cancelled) is State.CANCELLED
    assert shop.sql("SELECT count(*) FROM jobq.leases") == [(0,)]

"""FM_006: recovery waits for a commit and then decides by what it saw before.

Worker A has written its commit record and its effect and is about to COMMIT; its lease is past
its time. The reconciler wants the lease row, and waits for A's lock on it. A commits. The
reconciler goes on in the very statement that waited, whose snapshot is older than the commit: it
finds no record, and sends a committed job back to be run again.

The fix is in two parts, and each is enough for this interleaving: SKIP LOCKED, so that a lease
under commit is nobody's business, and the look for the record in a statement that begins after
the lock is held. Only the second is enough for all of them; the last test has the case.
"""

from __future__ import annotations

from jobq.failure_modes.fm_006_recovery_on_an_old_snapshot import (
    RESCUE,
    judged,
    play,
    reproduce,
    waiting_reconciler,
)
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import WAIT_S, Parties
from jobq.protocol.states import AttemptEnd, State
from jobq.protocol.values import Recovered
from jobq.store import PostgresStore
from jobq.store.step import Step


def test_reproduces_a_committed_job_that_is_sent_back(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop)

    assert found.seen["has_waited"], "the rescue waited for A's lock"
    assert found.seen["recovered"].retried, "and still saw no record"
    assert "every job is in exactly one place" in found.seen["violations"]
    assert found.seen["ran_again"] == 1, "B was given a job that is committed"
    assert found.is_harmed


def test_prevented_by_leaving_a_lease_under_commit_alone(postgres_shop: Shop) -> None:
    found = play(postgres_shop)

    assert not found.seen["has_waited"]
    assert found.seen["recovered"] == Recovered()
    assert found.seen["state"] is State.COMMITTED
    assert not found.seen["violations"]
    assert found.seen["ran_again"] == 0
    assert not found.is_harmed


def test_prevented_by_looking_for_the_record_after_the_wait(postgres_shop: Shop) -> None:
    """A reconciler without SKIP LOCKED waits as the rescue does, and then sees the record."""
    postgres_shop.weaken(waiting_reconciler)

    found = play(postgres_shop)

    assert found.seen["has_waited"]
    assert len(found.seen["recovered"].healed) == 1
    assert found.seen["state"] is State.DONE
    assert not found.seen["violations"]
    assert not found.is_harmed


def test_the_next_pass_finalizes_what_was_skipped(postgres_shop: Shop) -> None:
    shop = postgres_shop
    play(shop)

    (job_id,) = shop.reconcile().healed

    assert shop.state(job_id) is State.DONE
    assert [attempt.end for attempt in shop.attempts(job_id)] == [AttemptEnd.HEALED]
    assert shop.ledger() == ["A"]


def test_the_next_pass_retries_what_was_skipped_and_rolled_back(
    postgres_shop: Shop, parties: Parties
) -> None:
    """To skip is not to forget: A's COMMIT never came."""
    shop = postgres_shop
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(a)
    committing = parties.open()
    committing.run(shop.database.store.commit_record(a))

    assert shop.reconcile().total == 0
    committing.rollback()

    assert shop.reconcile().retried == (job_id,)


# A gate inside the statement: its snapshot is taken, its rows are not locked yet.
GATED = "AND (SELECT true FROM pg_advisory_xact_lock(6)) AND NOT EXISTS ("
SKIPPING = """
DELETE FROM {schema}.leases
WHERE ctid = ANY (ARRAY(
    SELECT leases.ctid FROM {schema}.leases
    WHERE leases.shard = %(shard)s AND leases.lease_expires_at <= statement_timestamp()
      AND NOT EXISTS (
        SELECT FROM {schema}.commit_records AS record
        WHERE record.shard = leases.shard AND record.job_id = leases.job_id)
    FOR UPDATE OF leases SKIP LOCKED))
"""


class GatedRescue(PostgresStore):
    """SKIP LOCKED, and the record still looked for in the statement that takes the lock."""

    def rescue(self) -> Step[Recovered]:
        deleting = RESCUE[RESCUE.index("    DELETE") : RESCUE.index("    RETURNING")]
        rows = yield self._statement(
            RESCUE.replace(deleting, SKIPPING).replace("AND NOT EXISTS (", GATED)
        )
        return Recovered(retried=tuple(job_id for (job_id,) in rows))


def test_skip_locked_alone_does_not_prevent_it(postgres_shop: Shop, parties: Parties) -> None:
    """The commit comes between the statement's snapshot and its lock: there is no lock left to
    skip, and the record is not in the snapshot."""
    shop = postgres_shop
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(a)
    gate, committing, reconciling = parties.open(), parties.open(), parties.open()
    gate.sql("SELECT pg_advisory_xact_lock(6)")
    committing.run(shop.database.store.commit_record(a))
    committing.sql(f"INSERT INTO ledger VALUES ({job_id}, 'A')")

    started = reconciling.start(GatedRescue(shop.schema).rescue())
    parties.wait_until_blocked(reconciling.pid)
    committing.commit()
    gate.commit()
    recovered = started.result(WAIT_S)
    reconciling.commit()

    assert judged(shop, job_id, recovered, has_waited=False).is_harmed

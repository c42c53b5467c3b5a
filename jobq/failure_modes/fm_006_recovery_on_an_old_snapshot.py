"""FM_006: recovery waits for a commit and then decides by what it saw before."""

from __future__ import annotations

from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import WAIT_S, parties_of
from jobq.protocol.values import Lease, LeasedAttempt, Recovered
from jobq.store import PostgresStore, Store
from jobq.store.base import RetryDelay
from jobq.store.postgres import LOCK_EXPIRED
from jobq.store.step import Step

# The DELETE waits for the row that the committing attempt has locked. That lock changed nothing in
# the row, so PostgreSQL has no reason to evaluate the condition again when it is released: the
# NOT EXISTS stays answered as it was before the commit. (And if it were evaluated again, the other
# table would still be read with the statement's old snapshot.)
RESCUE = """
WITH lost AS (
    DELETE FROM {schema}.leases
    WHERE leases.shard = %(shard)s AND leases.lease_expires_at <= statement_timestamp()
      AND NOT EXISTS (
        SELECT FROM {schema}.commit_records AS record
        WHERE record.shard = leases.shard AND record.job_id = leases.job_id)
    RETURNING leases.job_id, leases.token, leases.attempt
)
INSERT INTO {schema}.scheduled (shard, job_id, run_at, attempts, token)
SELECT %(shard)s, job_id, clock_timestamp(), attempt, token FROM lost
RETURNING job_id
"""


class OneStatementRescue(PostgresStore):
    """What is missing: the second look. Lock and decision are one statement, as anyone would
    write it who takes a statement to be atomic in every sense."""

    def reconcile(self, limit: int, retry_delay: RetryDelay) -> Step[Recovered]:
        rows = yield self._statement(RESCUE)
        return Recovered(retried=tuple(job_id for (job_id,) in rows))


class WaitingReconciler(PostgresStore):
    """jobq without SKIP LOCKED: it waits as well, and is saved by looking for the record later."""

    def _lock_expired(self, limit: int) -> Step[list[LeasedAttempt]]:
        template = LOCK_EXPIRED.replace("SKIP LOCKED", "")
        rows = yield self._statement(template, limit=limit)
        return [LeasedAttempt(Lease(row[0], row[1]), *row[2:]) for row in rows]


def one_statement_rescue(store: Store) -> Store:
    assert isinstance(store, PostgresStore)
    return OneStatementRescue(store.schema, store.shard)


def waiting_reconciler(store: Store) -> Store:
    assert isinstance(store, PostgresStore)
    return WaitingReconciler(store.schema, store.shard)


def play(shop: Shop) -> Finding:
    """A's lease is past its time while A stands between its record and COMMIT."""
    store = shop.database.store
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(a)
    with parties_of(shop) as parties:
        committing, reconciling = parties.open(), parties.open()
        committing.run(store.commit_record(a))
        committing.sql(f"INSERT INTO ledger VALUES ({job_id}, 'A')")
        started = reconciling.start(store.reconcile(100, lambda _: 0.0))
        has_waited = parties.wait_until_blocked_or_done(reconciling.pid, started)
        committing.commit()
        recovered = started.result(WAIT_S)
        reconciling.commit()
    return judged(shop, job_id, recovered, has_waited=has_waited)


def judged(shop: Shop, job_id: int, recovered: Recovered, *, has_waited: bool) -> Finding:
    """Whether the committed job came back, and what its second run would have met."""
    state, torn = shop.state(job_id), violations(shop, is_every_commit_charged=True)
    shop.promote()
    claimed = shop.claim("B")
    refusal = shop.effect(claimed[0].lease, "B").refusal if claimed else None
    return Finding(
        is_harmed=job_id in recovered.retried,
        detail=(
            "a committed job was sent back, and its handler ran again"
            if claimed
            else "the committed job was left as it is"
        )
        + (", after a wait" if has_waited else ", without a wait"),
        seen={
            "has_waited": has_waited,
            "recovered": recovered,
            "state": state,
            "violations": torn,
            "ran_again": len(claimed),
            "refusal_of_b": type(refusal).__name__ if refusal else None,
        },
    )


def reproduce(shop: Shop) -> Finding:
    """On recovery that is one statement."""
    shop.weaken(one_statement_rescue)
    return play(shop)


FM = FailureMode(
    id="FM_006",
    title="recovery on an old snapshot",
    invariants=("I5",),
    reproduce=reproduce,
    prevent=play,
    not_on_sqlite="recovery begins when no other transaction is writing, so there is no old "
    "snapshot to decide by",
)

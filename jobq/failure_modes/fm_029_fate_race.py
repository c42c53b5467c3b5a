"""FM_029: a job is declared dead or cancelled while its commit is under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import WAIT_S, parties_of
from jobq.protocol.values import Lease, Recovered
from jobq.store import PostgresStore, SqliteStore, Store
from jobq.store.base import RetryDelay
from jobq.store.sqlite import NOW
from jobq.store.step import Step

ELSEWHERE = "CREATE TABLE fates (job_id bigint, outcome text)"

# Careful, it seems: only what has expired, has no attempt left and no record. An uncommitted
# record cannot be seen, and this statement locks nothing that a commit would need.
BURY_POSTGRES = """
INSERT INTO fates
SELECT leases.job_id, 'dead'
FROM {schema}.leases
JOIN {schema}.jobs ON jobs.shard = leases.shard AND jobs.id = leases.job_id
WHERE leases.shard = %(shard)s AND leases.lease_expires_at <= statement_timestamp()
  AND leases.attempt >= jobs.max_attempts
  AND NOT EXISTS (SELECT FROM {schema}.commit_records AS record
                  WHERE record.shard = leases.shard AND record.job_id = leases.job_id)
RETURNING job_id
"""
CANCEL_POSTGRES = """
INSERT INTO fates
SELECT %(job_id)s, 'cancelled'
WHERE NOT EXISTS (SELECT FROM {schema}.commit_records
                  WHERE shard = %(shard)s AND job_id = %(job_id)s)
RETURNING job_id
"""

BURY_SQLITE = f"""
INSERT INTO fates
SELECT lease.job_id, 'dead'
FROM jobq_leases AS lease
JOIN jobq_jobs AS job ON job.shard = lease.shard AND job.id = lease.job_id
WHERE lease.shard = :shard AND lease.lease_expires_at <= {NOW}
  AND lease.attempt >= job.max_attempts
  AND NOT EXISTS (SELECT 1 FROM jobq_commit_records AS record
                  WHERE record.shard = lease.shard AND record.job_id = lease.job_id)
RETURNING job_id
"""
CANCEL_SQLITE = """
INSERT INTO fates
SELECT :job_id, 'cancelled'
WHERE NOT EXISTS (SELECT 1 FROM jobq_commit_records WHERE shard = :shard AND job_id = :job_id)
RETURNING job_id
"""


class _PostgresFatesElsewhere(PostgresStore):
    """What is missing: one key for all fates. Commits have a unique record; dead and cancelled
    jobs are written to a table (a column, a dead-letter queue) of their own, after a look."""

    def reconcile(self, limit: int, retry_delay: RetryDelay) -> Step[Recovered]:
        rows = yield self._statement(BURY_POSTGRES)
        return Recovered(dead=tuple(job_id for (job_id,) in rows))

    def cancel(self, job_id: int) -> Step[bool]:
        return bool((yield self._statement(CANCEL_POSTGRES, job_id=job_id)))


class _SqliteFatesElsewhere(SqliteStore):
    def reconcile(self, limit: int, retry_delay: RetryDelay) -> Step[Recovered]:
        rows = yield self._statement(BURY_SQLITE)
        return Recovered(dead=tuple(job_id for (job_id,) in rows))

    def cancel(self, job_id: int) -> Step[bool]:
        return bool((yield self._statement(CANCEL_SQLITE, job_id=job_id)))


def fates_elsewhere(store: Store) -> Store:
    if isinstance(store, PostgresStore):
        return _PostgresFatesElsewhere(store.schema, store.shard)
    return _SqliteFatesElsewhere(store.shard)


def burial(store: Store, job_id: int) -> Step[bool]:
    """Whether a pass of the reconciler declared the job dead."""
    recovered = yield from store.reconcile(100, lambda _: 0.0)
    return job_id in recovered.dead


def cancellation(store: Store, job_id: int) -> Step[bool]:
    return (yield from store.cancel(job_id))


Verdict = Callable[[Store, int], Step[bool]]
VERDICTS: dict[str, Verdict] = {"dead": burial, "cancelled": cancellation}
"""Who else decides a job's fate; true means that somebody is refunded."""


def play(shop: Shop) -> Finding:
    """Two orders, each at its last attempt: one is buried, one is cancelled."""
    facts = {fate: play_verdict(shop, verdict) for fate, verdict in VERDICTS.items()}
    harms = [fate for fate, seen in facts.items() if seen["booked"] == ["A", "refund"]]
    return Finding(
        is_harmed=bool(harms),
        detail="; ".join(f"declared {fate} and refunded, then charged" for fate in harms)
        or "; ".join(
            f"declared {fate}: {'yes' if seen['is_declared'] else 'no'}, so "
            + ("refunded" if "refund" in seen["booked"] else "charged")
            for fate, seen in facts.items()
        ),
        seen=facts,
    )


def play_verdict(shop: Shop, verdict: Verdict, *, is_committed: bool = True) -> dict[str, Any]:
    """A's last attempt stands between its record and COMMIT when the verdict is asked for."""
    job_id = shop.enqueue(max_attempts=1)
    a = shop.claim_one("A")
    shop.expire(a)
    if shop.is_sqlite:  # one writer at a time: the verdict can only come before or after
        has_waited = False
        is_declared = shop.database.run(verdict(shop.database.store, job_id))
        effect = shop.effect(a, "A")
        effect.charge()
        effect.commit()
    else:
        has_waited, is_declared = _verdict_during_commit(shop, a, verdict, is_committed)
    if is_declared:
        shop.sql(f"INSERT INTO ledger VALUES ({job_id}, 'refund')")
    booked = shop.sql(f"SELECT worker FROM ledger WHERE job_id = {job_id} ORDER BY worker")
    records = shop.sql(f"SELECT outcome FROM jobq.commit_records WHERE job_id = {job_id}")
    return {
        "has_waited": has_waited,
        "is_declared": is_declared,
        "booked": [worker for (worker,) in booked],
        "records": [outcome for (outcome,) in records],
    }


def _verdict_during_commit(
    shop: Shop, a: Lease, verdict: Verdict, is_committed: bool
) -> tuple[bool, bool]:
    store = shop.database.store
    with parties_of(shop) as parties:
        committing, deciding = parties.open(), parties.open()
        committing.run(store.commit_record(a))
        committing.sql(f"INSERT INTO ledger VALUES ({a.job_id}, 'A')")
        started = deciding.start(verdict(store, a.job_id))
        has_waited = parties.wait_until_blocked_or_done(deciding.pid, started)
        if not has_waited:
            deciding.commit()
        if is_committed:
            committing.commit()
        else:
            committing.rollback()
        is_declared = started.result(WAIT_S)
        deciding.commit()
    return has_waited, is_declared


def reproduce(shop: Shop) -> Finding:
    """On a queue whose dead and cancelled jobs are written somewhere else."""
    shop.sql(ELSEWHERE)
    shop.weaken(fates_elsewhere)
    return play(shop)


FM = FailureMode(
    id="FM_029",
    title="fate race: dead or cancelled, then committed",
    invariants=("I1", "I9"),
    reproduce=reproduce,
    prevent=play,
)

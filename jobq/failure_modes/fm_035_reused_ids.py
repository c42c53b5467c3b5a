"""FM_035: a new job is given the id of an old one."""

from __future__ import annotations

from collections.abc import Callable

from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.weakened import by
from jobq.protocol.values import ClaimedJob
from jobq.store.postgres import ENQUEUE_ONE, PostgresStore
from jobq.store.sqlite import NOW, TAKE_IDS, SqliteStore
from jobq.store.step import Statement

# What SQLite does with an INTEGER PRIMARY KEY unless told AUTOINCREMENT, and what is left of a
# sequence after a partial restore, or after a crash that undid its last values.
INSTEAD_POSTGRES = {
    ENQUEUE_ONE: ENQUEUE_ONE.replace(
        "nextval('{schema}.jobs_id_seq'::regclass)",
        "(SELECT coalesce(max(id), 0) FROM {schema}.jobs) + wanted.position",
    )
}
INSTEAD_SQLITE = {
    TAKE_IDS: f"SELECT coalesce(max(id), 0), {NOW} FROM jobq_jobs WHERE :count > 0",
}

PAYMENTS = "CREATE TABLE payments (idempotency_key text PRIMARY KEY, job_id bigint)"

KeyOf = Callable[[ClaimedJob], str]


class _PostgresLargestIdPlusOne(PostgresStore):
    """What is missing: a counter that never goes back."""

    def _statement(self, template: str, **params: object) -> Statement:
        return super()._statement(INSTEAD_POSTGRES.get(template, template), **params)


class _SqliteLargestIdPlusOne(SqliteStore):
    def _statement(self, sql: str, **params: object) -> Statement:
        return super()._statement(INSTEAD_SQLITE.get(sql, sql), **params)


def random_key(claimed: ClaimedJob) -> str:
    """jobq's own: drawn when the job is enqueued, and given to the handler."""
    return str(claimed.idempotency_key)


def job_id_as_key(claimed: ClaimedJob) -> str:
    return f"job-{claimed.lease.job_id}"


def play(shop: Shop, key_of: KeyOf = random_key) -> Finding:
    """Old jobs are pruned and new ones enqueued: what do the new ones meet?"""
    shop.sql(PAYMENTS)
    seen = {**_meets_old_record(shop, key_of), "zombie_is_refused": _meets_old_zombie(shop)}
    harms = [
        told
        for name, told in (
            ("is_charged", "refused by an old job's record, and never charged"),
            ("is_paid", "taken for an old payment, and never paid"),
            ("zombie_is_refused", "committed by an old job's zombie"),
        )
        if not seen[name]
    ]
    return Finding(
        is_harmed=bool(harms),
        detail="a new job is " + "; ".join(harms) if harms else "no id and no key comes back",
        seen=seen,
    )


def _meets_old_record(shop: Shop, key_of: KeyOf) -> dict[str, bool]:
    """The old job's row is pruned; its record is kept, for the zombies that there may be."""
    old = shop.enqueue()
    _pay_and_charge(shop, key_of)
    shop.sql(f"DELETE FROM jobq.jobs WHERE id = {old}")
    shop.sql("DELETE FROM ledger")
    new = shop.enqueue()
    is_paid = _pay_and_charge(shop, key_of)
    return {"is_reused": new == old, "is_charged": shop.ledger() == ["A"], "is_paid": is_paid}


def _meets_old_zombie(shop: Shop) -> bool:
    """The old job's record is pruned too, too early: A still has the first lease of its id."""
    old = shop.enqueue()
    zombie = shop.claim_one("A")
    shop.recover(zombie)
    shop.complete(shop.claim_one("B"))
    for table in ("jobs WHERE id", "commit_records WHERE job_id", "attempts WHERE job_id"):
        shop.sql(f"DELETE FROM jobq.{table} = {old}")
    shop.enqueue()
    shop.claim_one("B")
    late = shop.effect(zombie, "A")
    late.charge()
    late.commit()
    return late.refusal is not None


def _pay_and_charge(shop: Shop, key_of: KeyOf) -> bool:
    """One attempt with a payment outside and an effect inside; return whether money moved."""
    (claimed,) = shop.claim("A")
    job_id = claimed.lease.job_id
    paid = shop.sql(
        f"INSERT INTO payments VALUES ('{key_of(claimed)}', {job_id}) "
        "ON CONFLICT DO NOTHING RETURNING job_id"
    )
    effect = shop.effect(claimed.lease, "A")
    effect.charge()
    effect.commit()
    shop.finalize(claimed.lease)
    return bool(paid)


def reproduce(shop: Shop) -> Finding:
    """With ids that are one more than the largest, which are the key to the payments as well."""
    shop.weaken(by(_SqliteLargestIdPlusOne if shop.is_sqlite else _PostgresLargestIdPlusOne))
    return play(shop, job_id_as_key)


FM = FailureMode(
    id="FM_035",
    title="an id used again",
    invariants=("I4", "I6"),
    reproduce=reproduce,
    prevent=play,
)

"""The invariants with a ledger of effects, which the failure modes and every contract test are
judged by."""

from __future__ import annotations

from typing import Any

from jobq.failure_modes.shop import Shop
from jobq.invariants import INVARIANTS, query_for

EFFECT_AT_MOST_ONCE = "SELECT job_id, count(*) FROM ledger GROUP BY job_id HAVING count(*) > 1"

# A record goes only with its job, when both are pruned.
NO_EFFECT_WITHOUT_RECORD = """
SELECT job_id, worker FROM ledger WHERE job_id IN (SELECT id FROM jobq.jobs) AND job_id NOT IN (
    SELECT job_id FROM jobq.commit_records WHERE outcome = 'committed')
"""

NO_RECORD_WITHOUT_EFFECT = """
SELECT job_id, token FROM jobq.commit_records
WHERE outcome = 'committed' AND job_id NOT IN (SELECT job_id FROM ledger)
"""

ALWAYS = {invariant.claim: invariant.query for invariant in INVARIANTS} | {
    "an effect is applied at most once": EFFECT_AT_MOST_ONCE,
    "no effect is applied without its commit record": NO_EFFECT_WITHOUT_RECORD,
}


def violations(shop: Shop, *, is_every_commit_charged: bool) -> dict[str, list[Any]]:
    """Return the rows that violate an invariant, by the invariant; empty when all hold.

    `is_every_commit_charged`: whether every job that was committed was to charge the ledger, so
    that a record without its effect is a violation too.
    """
    asked = dict(ALWAYS)
    if is_every_commit_charged:
        asked["no commit record is written without its effect"] = NO_RECORD_WITHOUT_EFFECT
    backend = "sqlite" if shop.is_sqlite else "postgresql"
    found = shop.all_sql(query_for(query, backend, shop.schema) for query in asked.values())
    return {claim: rows for claim, rows in zip(asked, found, strict=True) if rows}

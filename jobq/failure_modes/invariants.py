"""The invariants of the protocol as queries on the live database.

Each returns the rows that violate it, whatever was done to get there; plain SQL for either
backend. The failure modes are judged by them, and so is every contract test at its end.
"""

from __future__ import annotations

from typing import Any

from jobq.failure_modes.shop import Shop

# Lease and record together are one place: COMMITTED, not yet finalized. Every table is read once:
# asking each of them about each job takes 20 seconds for 15,000 jobs. A row without a job is the
# next query's business.
ONE_PLACE = """
SELECT id, sum(in_scheduled), sum(in_ready), sum(in_leases), sum(in_records), sum(in_ambiguous)
FROM (
    SELECT id, 1 AS is_job, 0 AS in_scheduled, 0 AS in_ready, 0 AS in_leases, 0 AS in_records,
           0 AS in_ambiguous
    FROM jobq.jobs
    UNION ALL SELECT job_id, 0, 1, 0, 0, 0, 0 FROM jobq.scheduled
    UNION ALL SELECT job_id, 0, 0, 1, 0, 0, 0 FROM jobq.ready
    UNION ALL SELECT job_id, 0, 0, 1, 0, 0, 0 FROM jobq.throttled
    UNION ALL SELECT job_id, 0, 1, 0, 0, 0, 0 FROM jobq.waiting
    UNION ALL SELECT job_id, 0, 0, 0, 0, 0, 1 FROM jobq.ambiguous
    UNION ALL SELECT lease.job_id, 0, 0, 0, 1, 0, 0 FROM jobq.leases AS lease
        LEFT JOIN jobq.commit_records AS record ON record.job_id = lease.job_id
        WHERE record.job_id IS NULL
    UNION ALL SELECT job_id, 0, 0, 0, 0, 1, 0 FROM jobq.commit_records) AS places
GROUP BY id
HAVING sum(is_job) = 1
   AND sum(in_scheduled + in_ready + in_leases + in_records + in_ambiguous) <> 1
"""

NO_PLACE_WITHOUT_A_JOB = """
SELECT place, job_id FROM (
    SELECT 'scheduled' AS place, job_id FROM jobq.scheduled
    UNION ALL SELECT 'ready', job_id FROM jobq.ready
    UNION ALL SELECT 'throttled', job_id FROM jobq.throttled
    UNION ALL SELECT 'waiting', job_id FROM jobq.waiting
    UNION ALL SELECT 'deadlines', job_id FROM jobq.deadlines
    UNION ALL SELECT 'progress', job_id FROM jobq.progress
    UNION ALL SELECT 'dependencies', job_id FROM jobq.dependencies
    UNION ALL SELECT 'dependencies', needs_job_id FROM jobq.dependencies
    UNION ALL SELECT 'leases', job_id FROM jobq.leases
    UNION ALL SELECT 'commit_records', job_id FROM jobq.commit_records
    UNION ALL SELECT 'attempts', job_id FROM jobq.attempts
    UNION ALL SELECT 'refusals', job_id FROM jobq.refusals
    UNION ALL SELECT 'ambiguous', job_id FROM jobq.ambiguous
    UNION ALL SELECT 'steps', job_id FROM jobq.steps) AS places
WHERE job_id NOT IN (SELECT id FROM jobq.jobs)
"""

# A job that waits must have an attempt left, or it would be claimed once too often.
ATTEMPTS_WITHIN_LIMIT = """
SELECT place, job_id, spent FROM (
    SELECT 'scheduled' AS place, job_id, attempts AS spent, 1 AS needed FROM jobq.scheduled
    UNION ALL SELECT 'ready', job_id, attempts, 1 FROM jobq.ready
    UNION ALL SELECT 'throttled', job_id, attempts, 1 FROM jobq.throttled
    UNION ALL SELECT 'leases', job_id, attempt, 0 FROM jobq.leases
    UNION ALL SELECT 'ambiguous', job_id, attempt, 0 FROM jobq.ambiguous
    UNION ALL SELECT 'attempts', job_id, attempt, 0 FROM jobq.attempts) AS places
JOIN jobq.jobs AS jobs ON jobs.id = places.job_id
WHERE spent + needed > jobs.max_attempts OR spent < 0
"""

# A place never knows an older token than the history has; a live lease is newer than all of it.
TOKENS_ONLY_GROW = """
SELECT place, places.job_id, places.token, history.token FROM (
    SELECT 'scheduled' AS place, job_id, token FROM jobq.scheduled
    UNION ALL SELECT 'ready', job_id, token FROM jobq.ready
    UNION ALL SELECT 'throttled', job_id, token FROM jobq.throttled
    UNION ALL SELECT 'leases', job_id, token - 1 FROM jobq.leases
    UNION ALL SELECT 'ambiguous', job_id, token FROM jobq.ambiguous
    UNION ALL SELECT 'commit_records', job_id, token FROM jobq.commit_records) AS places
JOIN jobq.attempts AS history ON history.job_id = places.job_id
WHERE history.token > places.token
"""

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

# Else it would wait for ever, or be run before its time.
WHO_WAITS_WAITS_FOR_SOMETHING = """
SELECT 'waiting', job_id FROM jobq.waiting
WHERE job_id NOT IN (SELECT job_id FROM jobq.dependencies)
UNION ALL SELECT 'dependencies', job_id FROM jobq.dependencies
WHERE job_id NOT IN (SELECT job_id FROM jobq.waiting)
"""

ALWAYS = {
    "every job is in exactly one place": ONE_PLACE,
    "no place holds a job that does not exist": NO_PLACE_WITHOUT_A_JOB,
    "attempts never exceed max_attempts": ATTEMPTS_WITHIN_LIMIT,
    "the lease tokens of a job only grow": TOKENS_ONLY_GROW,
    "a job waits for others while there are any": WHO_WAITS_WAITS_FOR_SOMETHING,
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
    return {claim: rows for claim, query in asked.items() if (rows := shop.sql(query))}

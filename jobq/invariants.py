"""The invariants of the protocol as queries on the live database.

Each query returns the rows that violate it, whatever was done to get there: plain SQL for either
backend. `jobq doctor` asks them of your database; jobq's own tests ask them after every test.

I2 (an effect is there if and only if its record is) is not among them: only you know your effects.
I3 (what is done has a record) is what *done* means here. I6 (every job ends) is for time to decide.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jobq.store.base import Store
from jobq.store.step import Statement, Step

GRACE_S = 5
"""A claim that began before a pause was committed may end so much later."""

ONE_RECORD = """
SELECT job_id, count(*) FROM jobq.commit_records GROUP BY job_id, shard HAVING count(*) > 1
"""

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

# Else it would wait for ever, or be run before its time.
WHO_WAITS_WAITS_FOR_SOMETHING = """
SELECT 'waiting', job_id FROM jobq.waiting
WHERE job_id NOT IN (SELECT job_id FROM jobq.dependencies)
UNION ALL SELECT 'dependencies', job_id FROM jobq.dependencies
WHERE job_id NOT IN (SELECT job_id FROM jobq.waiting)
"""

# A refusal at the boundary means that the attempt wrote no record.
REFUSED_MEANS_UNCHANGED = """
SELECT refused.job_id, refused.token FROM jobq.refusals AS refused
JOIN jobq.commit_records AS record
  ON record.shard = refused.shard AND record.job_id = refused.job_id
 AND record.token = refused.token
WHERE refused.stage = 'commit' AND refused.reason = 'lease_lost' AND record.outcome = 'committed'
"""

NO_ATTEMPT_AFTER_THE_FATE = """
SELECT lease.job_id, lease.token, record.token FROM jobq.leases AS lease
JOIN jobq.commit_records AS record ON record.shard = lease.shard AND record.job_id = lease.job_id
WHERE lease.token > record.token
"""

LIMITS_HOLD = """
SELECT slots.key, count(*), min(limits.concurrency) FROM jobq.slots AS slots
JOIN jobq.leases AS lease
  ON lease.shard = slots.shard AND lease.job_id = slots.job_id AND lease.token = slots.token
JOIN jobq.limits AS limits
  ON limits.shard = slots.shard
 AND (slots.key = limits.name
      OR substr(slots.key, 1, length(limits.name) + 1) = limits.name || '=')
WHERE limits.concurrency IS NOT NULL
GROUP BY slots.key HAVING count(*) > min(limits.concurrency)
"""

PAUSED_QUEUES_REST = """
SELECT lease.job_id, job.queue FROM jobq.leases AS lease
JOIN jobq.jobs AS job ON job.shard = lease.shard AND job.id = lease.job_id
JOIN jobq.pauses AS pause ON pause.shard = job.shard AND pause.queue = job.queue
WHERE lease.acquired_at > {pause.paused_at + grace}
  AND (pause.resumes_at IS NULL OR pause.resumes_at > {now})
"""


class Invariant(NamedTuple):
    id: str
    claim: str
    query: str
    columns: tuple[str, ...]
    """What the query selects, for those who read its rows."""

    def shown(self, row: Any) -> str:
        pairs = zip(self.columns, row, strict=True)
        return f"({', '.join(f'{name}={value}' for name, value in pairs)})"


INVARIANTS = (
    Invariant("I1", "a job has at most one commit record", ONE_RECORD, ("job_id", "records")),
    Invariant(
        "I4", "a refused attempt changed nothing", REFUSED_MEANS_UNCHANGED, ("job_id", "token")
    ),
    Invariant(
        "I5",
        "every job is in exactly one place",
        ONE_PLACE,
        (
            "job_id",
            "scheduled_or_waiting",
            "ready_or_throttled",
            "leases",
            "commit_records",
            "ambiguous",
        ),
    ),
    Invariant(
        "I5",
        "no place holds a job that does not exist",
        NO_PLACE_WITHOUT_A_JOB,
        ("place", "job_id"),
    ),
    Invariant(
        "I5",
        "a job waits for others while there are any",
        WHO_WAITS_WAITS_FOR_SOMETHING,
        ("place", "job_id"),
    ),
    Invariant(
        "I7",
        "attempts never exceed max_attempts",
        ATTEMPTS_WITHIN_LIMIT,
        ("place", "job_id", "attempts"),
    ),
    Invariant(
        "I8",
        "the lease tokens of a job only grow",
        TOKENS_ONLY_GROW,
        ("place", "job_id", "token", "token_in_history"),
    ),
    Invariant(
        "I9",
        "no attempt begins after a fate is recorded",
        NO_ATTEMPT_AFTER_THE_FATE,
        ("job_id", "lease_token", "record_token"),
    ),
    Invariant("I10", "concurrency limits hold", LIMITS_HOLD, ("limit", "leases", "concurrency")),
    Invariant("I10", "no job of a paused queue begins", PAUSED_QUEUES_REST, ("job_id", "queue")),
)

_OF_BACKEND = {
    "postgresql": {
        "{pause.paused_at + grace}": f"pause.paused_at + interval '{GRACE_S} s'",
        "{now}": "statement_timestamp()",
    },
    "sqlite": {
        "{pause.paused_at + grace}": f"pause.paused_at + {GRACE_S * 1000}",
        "{now}": "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
    },
}


def query_for(query: str, backend: str, schema: str) -> str:
    """The query on the tables as the backend names them."""
    for word, spelt in _OF_BACKEND[backend].items():
        query = query.replace(word, spelt)
    quoted = schema.replace('"', '""')
    return query.replace("jobq.", "jobq_" if backend == "sqlite" else f'"{quoted}".')


def violating(store: Store, invariant: Invariant, schema: str, limit: int = 10) -> Step[list[Any]]:
    """Up to `limit` rows that violate it. Reads all of its tables."""
    query = query_for(invariant.query, store.portable.backend, schema)
    rows = yield Statement(f"SELECT * FROM ({query}) AS violating LIMIT {limit}", {})
    return list(rows)

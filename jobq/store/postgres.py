"""The steps of the protocol on PostgreSQL 14 and later.

Written for READ COMMITTED: every statement sees what was committed when it began, and a row
lock is worth more than a snapshot. One lock order everywhere, so that no two steps can deadlock:
a job's place first (several leases in the order of their job ids), its commit record after it.

`statement_timestamp()` compares, because an index can use it; `clock_timestamp()` grants,
because the statement may have waited. Both are the database's clock: a worker's is never asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

from jobq.models import DEFAULT_SCHEMA
from jobq.protocol.decisions import Ending
from jobq.protocol.retention import MIN_AGE_S, WORKERS_KEPT_S, WalkedJob
from jobq.protocol.states import Outcome, State
from jobq.protocol.values import (
    HEAD,
    Claim,
    EndedAttempt,
    Exchanged,
    JobRequest,
    JobStatus,
    Lease,
    LeasedAttempt,
    Record,
    Recorded,
    RefusedReport,
)
from jobq.store.base import LISTEN_AGAIN_S, Store, job_not_found
from jobq.store.portable import Portable
from jobq.store.rows import JobRow, ended_attempt, exchanged, job_status, walked_job
from jobq.store.step import Statement, Step

# One statement for one job or many. The id is drawn before the insert, so that the rows of both
# tables and the order of the answer come from one list. A due time is compared with the clock
# once, in `request`: a job goes to exactly one of `ready` and `scheduled`.
ENQUEUE_WANTED = """
WITH request AS MATERIALIZED (
    SELECT nextval('{schema}.jobs_id_seq'::regclass) AS id, wanted.*,
           coalesce(wanted.run_at, clock.at + make_interval(secs => wanted.delay_s)) AS due_at,
           coalesce(wanted.run_at <= clock.at, wanted.delay_s <= 0) AS is_due, clock.at
    FROM (SELECT clock_timestamp() AS at) AS clock,
         {wanted}
), job AS (
    INSERT INTO {schema}.jobs (shard, id, queue, task, args, priority, max_attempts,
                               idempotency_key, created_at, headers)
    OVERRIDING SYSTEM VALUE
    SELECT %(shard)s, id, queue, task, args::json, priority, max_attempts, gen_random_uuid(), at,
           headers
    FROM request
), now_due AS (
    INSERT INTO {schema}.ready (shard, queue, priority, due_at, job_id, task, attempts, token)
    SELECT %(shard)s, queue, priority, due_at, id, task, 0, 0 FROM request WHERE is_due
), later AS (
    INSERT INTO {schema}.scheduled (shard, job_id, run_at, attempts, token)
    SELECT %(shard)s, id, due_at, 0, 0 FROM request WHERE NOT is_due
), woken AS MATERIALIZED (
    SELECT pg_notify(%(channel)s, '')
    WHERE EXISTS (SELECT FROM request WHERE is_due) AND EXISTS (
        SELECT FROM {schema}.idle_workers AS idle
        WHERE idle.shard = %(shard)s
          AND (idle.queues IS NULL OR idle.queues && %(queues)s::text[]))
)
SELECT id FROM request LEFT JOIN woken ON true ORDER BY position
"""

ENQUEUE = ENQUEUE_WANTED.replace(
    "{wanted}",
    """unnest(%(tasks)s::text[], %(args)s::text[], %(queues)s::text[], %(priorities)s::int[],
                %(max_attempts)s::int[], %(run_ats)s::timestamptz[], %(delays_s)s::float8[],
                %(headers)s::text[])
           WITH ORDINALITY
           AS wanted (task, args, queue, priority, max_attempts, run_at, delay_s, headers,
                      position)""",
)

# One job needs no arrays, which take as long to write and to read as the rest.
ENQUEUE_ONE = ENQUEUE_WANTED.replace(
    "{wanted}",
    """(SELECT %(task)s::text AS task, %(args)s::text AS args, %(queue)s::text AS queue,
                 %(priority)s::int AS priority, %(max_attempts)s::int AS max_attempts,
                 %(run_at)s::timestamptz AS run_at, %(delay_s)s::float8 AS delay_s,
                 %(headers)s::text AS headers, 1 AS position) AS wanted""",
)

# Jobs under limits wait in a line of their own. Most have none, and pay for no further column.
ENQUEUE_LIMITED = (
    ENQUEUE.replace("created_at, headers)", "created_at, headers, line)")
    .replace("           headers\n", "           headers, line\n")
    .replace("{schema}.ready (shard, queue,", "{schema}.throttled (shard, line,")
    .replace("%(shard)s, queue, priority, due_at, id", "%(shard)s, line, priority, due_at, id")
    .replace("%(headers)s::text[])", "%(headers)s::text[], %(lines)s::text[])")
    .replace("delay_s, headers,\n", "delay_s, headers, line,\n")
)

# Jobs that are in no place yet.
ENQUEUE_APART = (
    f"{ENQUEUE_LIMITED.partition('), now_due')[0]})\nSELECT id FROM request ORDER BY position\n"
)

# Very many jobs come in by COPY, which takes rows at twice the rate of arrays.
STAGE = """
CREATE TEMPORARY TABLE jobq_wanted (
    position bigint NOT NULL, task text NOT NULL, args text NOT NULL, queue text NOT NULL,
    priority int NOT NULL, max_attempts int NOT NULL, run_at timestamptz, delay_s float8 NOT NULL,
    headers text)
"""
COPY_STAGED = """
COPY pg_temp.jobq_wanted (position, task, args, queue, priority, max_attempts, run_at, delay_s,
                          headers)
FROM STDIN
"""
ENQUEUE_STAGED = ENQUEUE_WANTED.replace("{wanted}", "pg_temp.jobq_wanted AS wanted")
UNSTAGE = "DROP TABLE pg_temp.jobq_wanted"

# The array sub-select is evaluated once, before the delete; a plain IN (SELECT ... FOR UPDATE)
# can be evaluated again and again and lock more than LIMIT rows. `shard + 0` keeps the primary
# key out of it: planned while the table was empty, all of its key costs as little as what is due
# by its time.
PROMOTE = """
WITH due AS (
    DELETE FROM {schema}.scheduled
    WHERE shard = %(shard)s AND job_id = ANY (ARRAY(
        SELECT job_id FROM {schema}.scheduled
        WHERE shard + 0 = %(shard)s AND run_at <= statement_timestamp()
        ORDER BY run_at LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED))
    RETURNING job_id, run_at, attempts, token
), job AS MATERIALIZED (
    SELECT due.*, jobs.queue, jobs.priority, jobs.task, jobs.line
    FROM due CROSS JOIN LATERAL (
        SELECT queue, priority, task, line FROM {schema}.jobs
        WHERE shard = %(shard)s AND id = due.job_id OFFSET 0) AS jobs
), moved AS (
    INSERT INTO {schema}.ready (shard, queue, priority, due_at, job_id, task, attempts, token)
    SELECT %(shard)s, queue, priority, run_at, job_id, task, attempts, token
    FROM job WHERE line IS NULL
), limited AS (
    INSERT INTO {schema}.throttled (shard, line, priority, due_at, job_id, task, attempts, token)
    SELECT %(shard)s, line, priority, run_at, job_id, task, attempts, token
    FROM job WHERE line IS NOT NULL
)
SELECT count(*) FROM job
"""

PROMOTE_THOSE = PROMOTE.replace(
    "ORDER BY run_at LIMIT %(limit)s", "AND job_id = ANY (%(job_ids)s::bigint[]) ORDER BY run_at"
)

# A loose index scan: one probe of the primary key for each queue, however long the queues are.
READY_QUEUES = """
WITH RECURSIVE queues AS (
    (SELECT queue FROM {schema}.ready WHERE shard = %(shard)s ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM {schema}.ready
            WHERE shard = %(shard)s AND queue > queues.queue ORDER BY queue LIMIT 1)
    FROM queues WHERE queues.queue IS NOT NULL
)
SELECT queue FROM queues WHERE queue IS NOT NULL
"""

# The same for the priorities in these queues.
READY_PRIORITIES = """
WITH RECURSIVE level AS (
    SELECT served.queue, first.priority
    FROM unnest(%(queues)s::text[]) AS served (queue)
    CROSS JOIN LATERAL (
        SELECT priority FROM {schema}.ready
        WHERE shard = %(shard)s AND queue = served.queue ORDER BY priority LIMIT 1) AS first
    UNION ALL
    SELECT level.queue, following.priority
    FROM level CROSS JOIN LATERAL (
        SELECT priority FROM {schema}.ready
        WHERE shard = %(shard)s AND queue = level.queue AND priority > level.priority
        ORDER BY priority LIMIT 1) AS following
)
SELECT queue, priority FROM level LIMIT 1000
"""

# What ended goes out and what is next comes in, as one statement and one transaction.
#
# `held` locks the leases of the attempts that ended, in the order of their jobs: those without an
# effect in this database get their record here (`returned`), the others have theirs and are only
# finalized. `taken` and `lease` claim: the row that is locked is the row that decides. A claim
# deletes from `ready` and asks no other table whether the job is free (a NOT EXISTS on another
# table would be answered from a snapshot older than the lock, and two workers would get the job).
# The LATERAL runs queue by queue and the outer LIMIT stops it, so exactly the claimed rows are
# locked. `ready` rows are never updated, so the row a ctid names cannot move between the lock and
# the delete.
#
# Every table is reached by keys made before (arrays, LATERAL): a join is the planner's to order,
# and on statistics from before the queue filled it would read a whole table for each batch.
EXCHANGE = """
WITH ended AS MATERIALIZED (
    SELECT * FROM unnest(%(job_ids)s::bigint[], %(tokens)s::bigint[], %(are_recorded)s::boolean[])
      AS named (job_id, token, is_recorded)
    ORDER BY job_id
), held AS MATERIALIZED (
    SELECT lease.*, ended.is_recorded
    FROM ended CROSS JOIN LATERAL (
        SELECT job_id, token, worker, due_at, acquired_at FROM {schema}.leases
        WHERE shard = %(shard)s AND job_id = ended.job_id
          AND CASE WHEN ended.is_recorded THEN EXISTS (
                  SELECT FROM {schema}.commit_records AS record
                  WHERE record.shard = %(shard)s AND record.job_id = ended.job_id)
              ELSE token = ended.token END
        FOR UPDATE) AS lease
), finalized AS (
    DELETE FROM {schema}.leases
    WHERE shard = %(shard)s AND job_id = ANY (ARRAY(SELECT job_id FROM held))
), returned AS (
    INSERT INTO {schema}.commit_records (shard, job_id, outcome, token, recorded_at, worker, due_at,
                                         acquired_at)
    SELECT %(shard)s, job_id, 'committed', token, clock_timestamp(), worker, due_at, acquired_at
    FROM held WHERE NOT is_recorded
    ON CONFLICT (shard, job_id) DO NOTHING
    RETURNING job_id, token
), taken AS (
    DELETE FROM {schema}.ready
    WHERE ctid = ANY (ARRAY(
        SELECT due.ctid
        FROM unnest(%(queues)s::text[], %(from_priorities)s::int[], %(from_due_ats)s::timestamptz[],
                    %(from_job_ids)s::bigint[]) AS served (queue, priority, due_at, job_id)
        CROSS JOIN LATERAL (
            SELECT ready.ctid FROM {schema}.ready
            WHERE ready.shard = %(shard)s AND ready.queue = served.queue
              AND served.queue <> ALL (ARRAY(
                  SELECT queue FROM {schema}.pauses
                  WHERE shard = %(shard)s
                    AND (resumes_at IS NULL OR resumes_at > statement_timestamp())))
              AND (ready.priority, ready.due_at, ready.job_id)
                  >= (served.priority, served.due_at, served.job_id)
              AND ready.task = ANY (%(tasks)s::text[])
            ORDER BY ready.priority, ready.due_at, ready.job_id
            LIMIT %(limit)s
            FOR UPDATE SKIP LOCKED) AS due
        LIMIT %(limit)s))
    RETURNING job_id, priority, due_at, attempts, token
), lease AS (
    INSERT INTO {schema}.leases (shard, job_id, token, attempt, worker, due_at, acquired_at,
                                 lease_expires_at)
    SELECT %(shard)s, job_id, token + 1, attempts + 1, %(worker)s, due_at, clock_timestamp(),
           clock_timestamp() + make_interval(secs => %(lease_s)s)
    FROM taken
    RETURNING job_id, token, attempt, due_at, acquired_at
)
SELECT lease.job_id, lease.token, jobs.queue, jobs.task, jobs.args::text, jobs.priority,
       lease.due_at, lease.attempt, jobs.max_attempts, jobs.idempotency_key, jobs.created_at,
       lease.acquired_at, jobs.headers
FROM lease CROSS JOIN LATERAL (
    SELECT * FROM {schema}.jobs WHERE shard = %(shard)s AND id = lease.job_id OFFSET 0) AS jobs
UNION ALL
SELECT job_id, token, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       NULL
FROM ended
WHERE NOT is_recorded AND (job_id, token) NOT IN (SELECT job_id, token FROM returned)
"""

EXCHANGE_THOSE = EXCHANGE.replace(
    "              AND ready.task = ANY",
    "              AND ready.job_id = ANY (%(only)s::bigint[])\n              AND ready.task = ANY",
)

WAKE = "SELECT pg_notify(%(channel)s, '')"

# Rows of workers that are gone are cleared away by those that are there: each that listens for
# long writes its own again.
LISTEN = """
WITH gone AS (
    DELETE FROM {schema}.idle_workers
    WHERE shard = %(shard)s AND worker <> %(worker)s
      AND since < statement_timestamp() - make_interval(secs => 2 * %(again_s)s)
)
INSERT INTO {schema}.idle_workers (shard, worker, queues, since)
VALUES (%(shard)s, %(worker)s, %(queues)s::text[], clock_timestamp())
ON CONFLICT (shard, worker) DO UPDATE SET since = excluded.since
"""

UNLISTEN = """
DELETE FROM {schema}.idle_workers WHERE shard = %(shard)s AND worker = %(worker)s
"""

UNKNOWN_TASKS = """
SELECT DISTINCT task FROM (
    SELECT waiting.task FROM unnest(%(queues)s::text[]) AS served (queue)
    CROSS JOIN LATERAL (
        SELECT task FROM {schema}.ready
        WHERE shard = %(shard)s AND queue = served.queue AND task <> ALL (%(tasks)s::text[])
        LIMIT 1000) AS waiting
    LIMIT 1000) AS unclaimed
ORDER BY task
"""

SEE_WORKER = """
INSERT INTO {schema}.workers (shard, id, started_at, seen_at, about)
VALUES (%(shard)s, %(worker)s, clock_timestamp(), clock_timestamp(), %(about)s)
ON CONFLICT (shard, id) DO UPDATE SET seen_at = excluded.seen_at
"""

# A lease that another session has locked is being ended or finalized: skip it rather than wait
# on it. FOR NO KEY UPDATE does not disturb an effect transaction's FOR KEY SHARE.
EXTEND = """
WITH held AS MATERIALIZED (
    SELECT lease.job_id
    FROM unnest(%(job_ids)s::bigint[], %(tokens)s::bigint[]) AS named (job_id, token)
    CROSS JOIN LATERAL (
        SELECT job_id FROM {schema}.leases
        WHERE shard = %(shard)s AND job_id = named.job_id AND token = named.token
        FOR NO KEY UPDATE SKIP LOCKED) AS lease
)
UPDATE {schema}.leases
SET lease_expires_at = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE shard = %(shard)s AND job_id = ANY (ARRAY(SELECT job_id FROM held))
"""

HELD = """
SELECT lease.job_id, lease.token
FROM unnest(%(job_ids)s::bigint[], %(tokens)s::bigint[]) AS named (job_id, token)
CROSS JOIN LATERAL (
    SELECT job_id, token FROM {schema}.leases
    WHERE shard = %(shard)s AND job_id = named.job_id AND token = named.token OFFSET 0) AS lease
"""

# The COMMITTED boundary. The record is joined to the live lease, whose row stays locked
# FOR KEY SHARE until the effect commits: heartbeats go on, and removing the lease must wait. A
# zombie finds no lease and is refused before it does any work. A bare unique insert would
# instead let it wait for the winner and, when the winner rolls back, commit on a lost lease.
# From here on the transaction is the handler's: its statements are planned as its database says.
COMMIT_RECORD = """
INSERT INTO {schema}.commit_records (shard, job_id, outcome, token, recorded_at, worker, due_at,
                                     acquired_at)
SELECT shard, job_id, 'committed', token, clock_timestamp(), worker, due_at, acquired_at
FROM {schema}.leases
WHERE shard = %(shard)s AND job_id = %(job_id)s AND token = %(token)s
FOR KEY SHARE
ON CONFLICT (shard, job_id) DO NOTHING
RETURNING pg_current_xact_id()::text, set_config('enable_seqscan', NULL, true)
"""

# The same for the jobs of a batch. The lateral locks row by row, and the records are inserted, in
# the order of `named`: of two who come with the same jobs one waits for the other.
COMMIT_RECORDS = """
INSERT INTO {schema}.commit_records (shard, job_id, outcome, token, recorded_at, worker, due_at,
                                     acquired_at)
SELECT %(shard)s, lease.job_id, 'committed', lease.token, clock_timestamp(), lease.worker,
       lease.due_at, lease.acquired_at
FROM (
    SELECT * FROM unnest(%(job_ids)s::bigint[], %(tokens)s::bigint[]) AS named (job_id, token)
    ORDER BY job_id) AS named
CROSS JOIN LATERAL (
    SELECT job_id, token, worker, due_at, acquired_at FROM {schema}.leases
    WHERE shard = %(shard)s AND job_id = named.job_id AND token = named.token
    FOR KEY SHARE) AS lease
ON CONFLICT (shard, job_id) DO NOTHING
RETURNING job_id, token, pg_current_xact_id()::text, set_config('enable_seqscan', NULL, true)
"""

# By the transaction that wrote the records.
RECORD_RESULTS = """
UPDATE {schema}.commit_records
SET result = (%(results)s::text[])[array_position(%(job_ids)s::bigint[], job_id)]
WHERE shard = %(shard)s AND job_id = ANY (%(job_ids)s::bigint[])
"""

# The record was written outside of any savepoint, so it is there as long as its transaction is;
# another one is under way when the handler ended ours. No table is looked at, so the question
# costs next to nothing.
CONFIRM_RECORD = """
SELECT 1 WHERE pg_current_xact_id_if_assigned() = %(transaction)s::text::xid8
"""

RECORDS = """
SELECT job_id, token, outcome FROM {schema}.commit_records
WHERE shard = %(shard)s AND job_id = ANY (%(job_ids)s::bigint[])
"""

# The lateral locks row by row, in the order of `named`.
LOCK_LEASES = """
WITH named AS MATERIALIZED (
    SELECT * FROM unnest(%(job_ids)s::bigint[], %(tokens)s::bigint[]) AS named (job_id, token)
    ORDER BY job_id
)
SELECT lease.job_id, lease.token, lease.attempt, jobs.max_attempts, jobs.task, lease.begun_as
FROM named CROSS JOIN LATERAL (
    SELECT job_id, token, attempt, begun_as FROM {schema}.leases
    WHERE shard = %(shard)s AND job_id = named.job_id AND token = named.token
    FOR UPDATE) AS lease
CROSS JOIN LATERAL (
    SELECT max_attempts, task FROM {schema}.jobs
    WHERE shard = %(shard)s AND id = lease.job_id OFFSET 0) AS jobs
"""

LOCK_LEASES_FREE = LOCK_LEASES.replace("FOR UPDATE", "FOR UPDATE SKIP LOCKED")

# SKIP LOCKED: a lease that is being committed, extended or recovered by another reconciler is
# someone else's business. Nothing is decided here; the records are read by the next statement.
# `shard + 0`: see PROMOTE.
LOCK_EXPIRED = """
SELECT lease.job_id, lease.token, lease.attempt, jobs.max_attempts, jobs.task, lease.begun_as
FROM (
    SELECT job_id, token, attempt, begun_as FROM {schema}.leases
    WHERE shard + 0 = %(shard)s AND lease_expires_at <= statement_timestamp()
    ORDER BY lease_expires_at LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED) AS lease
CROSS JOIN LATERAL (
    SELECT max_attempts, task FROM {schema}.jobs
    WHERE shard = %(shard)s AND id = lease.job_id OFFSET 0) AS jobs
"""

# Every lease named here is locked by this transaction, so nothing can have changed since.
END_ATTEMPTS = """
WITH ending AS MATERIALIZED (
    SELECT * FROM unnest(%(job_ids)s::bigint[], %(tokens)s::bigint[], %(ends)s::text[],
                         %(error_types)s::text[], %(error_messages)s::text[],
                         %(tracebacks)s::text[], %(retry_delays_s)s::float8[],
                         %(attempts_spent)s::int[], %(are_dead)s::boolean[])
      AS ending (job_id, token, outcome, error_type, error_message, traceback, retry_delay_s,
                 attempts_spent, is_dead)
), held AS MATERIALIZED (
    SELECT lease.*, ending.*
    FROM ending CROSS JOIN LATERAL (
        SELECT attempt, worker, acquired_at, lease_expires_at FROM {schema}.leases
        WHERE shard = %(shard)s AND job_id = ending.job_id AND token = ending.token
        OFFSET 0) AS lease
), gone AS (
    DELETE FROM {schema}.leases
    WHERE shard = %(shard)s AND job_id = ANY (ARRAY(SELECT job_id FROM held))
), history AS (
    INSERT INTO {schema}.attempts (shard, job_id, token, attempt, worker, started_at, ended_at,
                                   outcome, error_type, error_message, traceback,
                                   lease_expires_at)
    SELECT %(shard)s, job_id, token, attempt, worker, acquired_at, clock_timestamp(), outcome,
           error_type, error_message, traceback, lease_expires_at
    FROM held
), retried AS (
    INSERT INTO {schema}.scheduled (shard, job_id, run_at, attempts, token)
    SELECT %(shard)s, job_id, clock_timestamp() + make_interval(secs => retry_delay_s),
           attempts_spent, token
    FROM held WHERE retry_delay_s IS NOT NULL
)
INSERT INTO {schema}.commit_records (shard, job_id, outcome, token, recorded_at)
SELECT %(shard)s, job_id, 'dead', token, clock_timestamp() FROM held WHERE is_dead
"""

# The leases are locked by this transaction. A fate recorded meanwhile (a cancel) keeps its job
# out of `ready`: then the lease is only removed.
RELEASE = """
WITH held AS MATERIALIZED (
    SELECT lease.*
    FROM unnest(%(job_ids)s::bigint[], %(tokens)s::bigint[]) AS named (job_id, token)
    CROSS JOIN LATERAL (
        SELECT job_id, token, attempt, due_at FROM {schema}.leases
        WHERE shard = %(shard)s AND job_id = named.job_id AND token = named.token
        OFFSET 0) AS lease
), gone AS (
    DELETE FROM {schema}.leases
    WHERE shard = %(shard)s AND job_id = ANY (ARRAY(SELECT job_id FROM held))
), job AS MATERIALIZED (
    SELECT held.*, jobs.queue, jobs.priority, jobs.task, jobs.line
    FROM held CROSS JOIN LATERAL (
        SELECT queue, priority, task, line FROM {schema}.jobs
        WHERE shard = %(shard)s AND id = held.job_id
          AND NOT EXISTS (SELECT FROM {schema}.commit_records AS record
                          WHERE record.shard = %(shard)s AND record.job_id = held.job_id)
        OFFSET 0) AS jobs
), limited AS (
    INSERT INTO {schema}.throttled (shard, line, priority, due_at, job_id, task, attempts, token)
    SELECT %(shard)s, line, priority, due_at, job_id, task, attempt - 1, token
    FROM job WHERE line IS NOT NULL
)
INSERT INTO {schema}.ready (shard, queue, priority, due_at, job_id, task, attempts, token)
SELECT %(shard)s, queue, priority, due_at, job_id, task, attempt - 1, token
FROM job WHERE line IS NULL
"""

FATE = """
SELECT record.outcome FROM {schema}.jobs
LEFT JOIN {schema}.commit_records AS record
  ON record.shard = jobs.shard AND record.job_id = jobs.id
WHERE jobs.shard = %(shard)s AND jobs.id = %(job_id)s
"""

SHARE_LEASE = """
SELECT token FROM {schema}.leases
WHERE shard = %(shard)s AND job_id = %(job_id)s FOR KEY SHARE
"""

UNSCHEDULE = """
DELETE FROM {schema}.scheduled WHERE shard = %(shard)s AND job_id = %(job_id)s RETURNING token
"""

# The primary key leads here by queue and priority, which a job never changes.
UNREADY = """
WITH job AS MATERIALIZED (
    SELECT queue, priority FROM {schema}.jobs WHERE shard = %(shard)s AND id = %(job_id)s
)
DELETE FROM {schema}.ready
WHERE shard = %(shard)s AND queue = (SELECT queue FROM job)
  AND priority = (SELECT priority FROM job) AND job_id = %(job_id)s
RETURNING token
"""

RECORD_CANCELLED = """
INSERT INTO {schema}.commit_records (shard, job_id, outcome, token, recorded_at)
VALUES (%(shard)s, %(job_id)s, 'cancelled', %(token)s, clock_timestamp())
ON CONFLICT (shard, job_id) DO NOTHING
RETURNING job_id
"""

# The lock keeps the job from being pruned between the look at it and the row about it.
RECORD_REFUSALS = """
INSERT INTO {schema}.refusals (shard, job_id, token, stage, worker, reason, refused_at)
SELECT %(shard)s, job_id, token, stage, %(worker)s, reason, clock_timestamp()
FROM unnest(%(job_ids)s::bigint[], %(tokens)s::bigint[], %(stages)s::text[], %(reasons)s::text[])
  AS refused (job_id, token, stage, reason)
CROSS JOIN LATERAL (
    SELECT FROM {schema}.jobs WHERE shard = %(shard)s AND id = refused.job_id
    FOR KEY SHARE) AS job
ON CONFLICT DO NOTHING
"""

STOP_WORKER = """
UPDATE {schema}.workers SET seen_at = clock_timestamp(), stopped_at = clock_timestamp()
WHERE shard = %(shard)s AND id = %(worker)s
"""

# Along the primary key, which needs no index on the time that every commit would have to pay for
# (see docs/retention.md). Nothing is locked: jobs and records are never updated.
WALK = """
SELECT job.id, job.task,
       extract(epoch FROM statement_timestamp() - job.created_at)::float8, record.outcome,
       extract(epoch FROM statement_timestamp() - record.recorded_at)::float8
FROM (SELECT id, task, created_at FROM {schema}.jobs
      WHERE shard = %(shard)s AND id > %(after)s ORDER BY id LIMIT %(limit)s) AS job
LEFT JOIN LATERAL (
    SELECT outcome, recorded_at FROM {schema}.commit_records
    WHERE shard = %(shard)s AND job_id = job.id OFFSET 0) AS record ON true
ORDER BY job.id
"""

# One snapshot in which a job has its record and no lease is proof enough that it is in no place
# and will be in none: whoever puts a job anywhere looks for its record under the lease's lock. The
# lock on the job's row keeps pruners apart.
PRUNABLE = """
SELECT job.id FROM unnest(%(job_ids)s::bigint[]) AS named (job_id)
CROSS JOIN LATERAL (
    SELECT id FROM {schema}.jobs
    WHERE shard = %(shard)s AND id = named.job_id
      AND EXISTS (SELECT FROM {schema}.commit_records AS record
                  WHERE record.shard = %(shard)s AND record.job_id = named.job_id
                    AND record.recorded_at
                        <= statement_timestamp() - make_interval(secs => %(min_age_s)s))
      AND NOT EXISTS (SELECT FROM {schema}.leases
                      WHERE leases.shard = %(shard)s AND leases.job_id = named.job_id)
    OFFSET 0) AS job
"""

LOCK_PRUNABLE = PRUNABLE.replace("OFFSET 0", "FOR UPDATE SKIP LOCKED")

# Every job named here is locked by this transaction.
DELETE_JOBS = """
WITH fate AS (
    DELETE FROM {schema}.commit_records
    WHERE shard = %(shard)s AND job_id = ANY (%(job_ids)s::bigint[])
), history AS (
    DELETE FROM {schema}.attempts
    WHERE shard = %(shard)s AND job_id = ANY (%(job_ids)s::bigint[])
), audit AS (
    DELETE FROM {schema}.refusals
    WHERE shard = %(shard)s AND job_id = ANY (%(job_ids)s::bigint[])
), remembered AS (
    DELETE FROM {schema}.steps
    WHERE shard = %(shard)s AND job_id = ANY (%(job_ids)s::bigint[])
)
DELETE FROM {schema}.jobs WHERE shard = %(shard)s AND id = ANY (%(job_ids)s::bigint[])
"""

OLD_WORKERS = """
SELECT id FROM {schema}.workers
WHERE shard = %(shard)s
  AND seen_at <= statement_timestamp() - make_interval(secs => %(kept_s)s)
ORDER BY id
"""

LOCK_OLD_WORKERS = f"{OLD_WORKERS} FOR UPDATE SKIP LOCKED"

DELETE_WORKERS = """
DELETE FROM {schema}.workers WHERE shard = %(shard)s AND id = ANY (%(workers)s::text[])
"""

JOB = """
SELECT jobs.id, jobs.queue, jobs.task, jobs.args::text, jobs.priority, jobs.max_attempts,
       jobs.idempotency_key, jobs.created_at,
       scheduled.run_at, scheduled.attempts, ready.due_at, ready.attempts,
       leases.due_at, leases.attempt, leases.worker, leases.lease_expires_at,
       record.outcome, record.recorded_at,
       ended.attempt, ended.holds_record, throttled.due_at, throttled.attempts, ambiguous.attempt,
       record.result, waiting.token
FROM {schema}.jobs
LEFT JOIN {schema}.scheduled ON scheduled.shard = jobs.shard AND scheduled.job_id = jobs.id
LEFT JOIN LATERAL (
    SELECT due_at, attempts FROM {schema}.ready
    WHERE shard = jobs.shard AND queue = jobs.queue AND priority = jobs.priority
      AND job_id = jobs.id OFFSET 0) AS ready ON true
LEFT JOIN {schema}.throttled ON throttled.shard = jobs.shard AND throttled.job_id = jobs.id
LEFT JOIN {schema}.leases ON leases.shard = jobs.shard AND leases.job_id = jobs.id
LEFT JOIN {schema}.commit_records AS record
  ON record.shard = jobs.shard AND record.job_id = jobs.id
LEFT JOIN {schema}.waiting ON waiting.shard = jobs.shard AND waiting.job_id = jobs.id
LEFT JOIN {schema}.ambiguous ON ambiguous.shard = jobs.shard AND ambiguous.job_id = jobs.id
CROSS JOIN LATERAL (
    SELECT (array_agg(attempt ORDER BY token DESC)
                FILTER (WHERE outcome <> 'snoozed'))[1] AS attempt,
           bool_or(token = record.token) AS holds_record
    FROM {schema}.attempts WHERE shard = jobs.shard AND job_id = jobs.id) AS ended
WHERE jobs.shard = %(shard)s AND jobs.id = %(job_id)s
"""

# For roles that may know of jobs, and not what they hold.
JOB_WITHOUT_CONTENTS = JOB.replace("jobs.args::text", "''").replace("record.result", "NULL")

ATTEMPTS = """
SELECT token, attempt, worker, started_at, ended_at, outcome, lease_expires_at, error_type,
       error_message, traceback
FROM {schema}.attempts WHERE shard = %(shard)s AND job_id = %(job_id)s ORDER BY token
"""

COUNTS = """
SELECT 'scheduled', count(*) FROM {schema}.scheduled WHERE shard = %(shard)s
UNION ALL SELECT 'ready', count(*) FROM {schema}.ready WHERE shard = %(shard)s
UNION ALL SELECT 'throttled', count(*) FROM {schema}.throttled WHERE shard = %(shard)s
UNION ALL SELECT 'waiting', count(*) FROM {schema}.waiting WHERE shard = %(shard)s
UNION ALL SELECT 'ambiguous', count(*) FROM {schema}.ambiguous WHERE shard = %(shard)s
UNION ALL SELECT CASE WHEN record.outcome IS NULL THEN 'leased' ELSE 'committed' END, count(*)
    FROM {schema}.leases
    LEFT JOIN {schema}.commit_records AS record
      ON record.shard = leases.shard AND record.job_id = leases.job_id
    WHERE leases.shard = %(shard)s GROUP BY 1
UNION ALL SELECT CASE outcome WHEN 'committed' THEN 'done' ELSE outcome END, count(*)
    FROM {schema}.commit_records AS record
    WHERE shard = %(shard)s AND NOT EXISTS (
        SELECT FROM {schema}.leases
        WHERE leases.shard = record.shard AND leases.job_id = record.job_id)
    GROUP BY 1
"""

# to_regclass is NULL for a table that is not there, where naming it would be an error.
IS_MIGRATED = "SELECT to_regclass('{schema}.alembic_version') IS NOT NULL"
REVISION = "SELECT version_num FROM {schema}.alembic_version"


class PostgresStore(Store):
    """The protocol on PostgreSQL. `Store` says what each step promises."""

    def __init__(self, schema: str = DEFAULT_SCHEMA, shard: int = 0) -> None:
        self.schema = schema
        self.shard = shard
        self.portable = Portable("postgresql", schema, shard)

    def enqueue(self, requests: Sequence[JobRequest], *, is_alone: bool = False) -> Step[list[int]]:
        if any(request.line is not None for request in requests):
            return (yield from self._enqueue_limited(requests))
        statement = self._enqueue_one(*requests) if len(requests) == 1 else self._enqueue(requests)
        rows = yield replace(statement, is_whole=is_alone)
        return [job_id for (job_id,) in rows]

    def _enqueue_one(self, request: JobRequest) -> Statement:
        return self._statement(
            ENQUEUE_ONE,
            channel=channel_of(self.schema),
            queues=[request.queue],
            **request._asdict(),
        )

    def _enqueue_limited(self, requests: Sequence[JobRequest]) -> Step[list[int]]:
        """Those with limits and those without, a statement for each kind."""
        limited = [request.line is not None for request in requests]
        job_ids: dict[bool, Iterator[int]] = {}
        for is_limited in set(limited):
            some = [one for one, its in zip(requests, limited, strict=True) if its is is_limited]
            if is_limited:
                rows = yield self._enqueue(some, ENQUEUE_LIMITED, lines=[one.line for one in some])
            else:
                rows = yield self._enqueue(some)
            job_ids[is_limited] = iter([job_id for (job_id,) in rows])
        return [next(job_ids[is_limited]) for is_limited in limited]

    def enqueue_apart(self, requests: Sequence[JobRequest]) -> Step[list[int]]:
        lines = [request.line for request in requests]
        rows = yield self._enqueue(requests, ENQUEUE_APART, lines=lines)
        return [job_id for (job_id,) in rows]

    def _enqueue(
        self, requests: Sequence[JobRequest], template: str = ENQUEUE, **more: object
    ) -> Statement:
        return self._statement(
            template,
            **more,
            channel=channel_of(self.schema),
            tasks=[r.task for r in requests],
            args=[r.args for r in requests],
            queues=[r.queue for r in requests],
            priorities=[r.priority for r in requests],
            max_attempts=[r.max_attempts for r in requests],
            run_ats=[r.run_at for r in requests],
            delays_s=[float(r.delay_s) for r in requests],  # psycopg takes no mixed lists
            headers=[r.headers for r in requests],
        )

    def enqueue_by_copy(self, requests: Sequence[JobRequest]) -> Step[list[int]]:
        if any(request.line is not None for request in requests):
            return (yield from self._enqueue_limited(requests))
        yield self._statement(STAGE)
        yield replace(
            self._statement(COPY_STAGED),
            copied=[
                (
                    n,
                    r.task,
                    r.args,
                    r.queue,
                    r.priority,
                    r.max_attempts,
                    r.run_at,
                    r.delay_s,
                    r.headers,
                )
                for n, r in enumerate(requests)
            ],
        )
        rows = yield self._statement(
            ENQUEUE_STAGED,
            channel=channel_of(self.schema),
            queues=list({r.queue for r in requests}),
        )
        yield self._statement(UNSTAGE)
        return [job_id for (job_id,) in rows]

    def promote(self, limit: int) -> Step[int]:
        ((moved,),) = yield self._statement(PROMOTE, limit=limit)
        return int(moved)

    def promote_those(self, job_ids: Sequence[int]) -> Step[int]:
        ((moved,),) = yield self._statement(PROMOTE_THOSE, job_ids=list(job_ids))
        return int(moved)

    def ready_queues(self) -> Step[list[str]]:
        rows = yield self._statement(READY_QUEUES)
        return [queue for (queue,) in rows]

    def ready_priorities(self, queues: Sequence[str]) -> Step[list[tuple[str, int]]]:
        rows = yield self._statement(READY_PRIORITIES, queues=list(queues))
        return [(queue, priority) for queue, priority in rows]

    def unknown_tasks(self, *, queues: Sequence[str], tasks: Sequence[str]) -> Step[list[str]]:
        rows = yield self._statement(UNKNOWN_TASKS, queues=list(queues), tasks=list(tasks))
        return [task for (task,) in rows]

    def confirm_record(self, recorded: Recorded) -> Step[bool]:
        rows = yield self._statement(CONFIRM_RECORD, transaction=recorded.transaction)
        return bool(rows)

    def record_results(self, results: Mapping[int, str]) -> Step[None]:
        yield self._statement(RECORD_RESULTS, job_ids=list(results), results=list(results.values()))

    def listen(self, worker: str, queues: Sequence[str] | None) -> Step[None]:
        names = None if queues is None else list(queues)
        yield self._whole(LISTEN, worker=worker, queues=names, again_s=LISTEN_AGAIN_S)

    def unlisten(self, worker: str) -> Step[None]:
        yield self._whole(UNLISTEN, worker=worker)

    def wake(self) -> Step[None]:
        yield self._statement(WAKE, channel=channel_of(self.schema))

    def record_refusals(self, worker: str, refused: Sequence[RefusedReport]) -> Step[None]:
        yield self._statement(
            RECORD_REFUSALS,
            worker=worker,
            stages=[report.stage.value for report in refused],
            reasons=[report.reason for report in refused],
            **_named([report.lease for report in refused]),
        )

    def stop_worker(self, worker: str) -> Step[None]:
        yield self._statement(UNLISTEN, worker=worker)
        yield self._statement(STOP_WORKER, worker=worker)

    def job(self, job_id: int) -> Step[JobStatus | None]:
        rows = yield self._statement(JOB, job_id=job_id)
        return job_status(JobRow(*rows[0])) if rows else None

    def job_without_contents(self, job_id: int) -> Step[JobStatus | None]:
        rows = yield self._statement(JOB_WITHOUT_CONTENTS, job_id=job_id)
        return job_status(JobRow(*rows[0])) if rows else None

    def attempts(self, job_id: int) -> Step[list[EndedAttempt]]:
        rows = yield self._statement(ATTEMPTS, job_id=job_id)
        return [ended_attempt(row) for row in rows]

    def counts(self) -> Step[dict[State, int]]:
        rows = yield self._statement(COUNTS)
        return dict.fromkeys(State, 0) | {State(name): count for name, count in rows}

    def revision(self) -> Step[str | None]:
        ((is_migrated,),) = yield self._statement(IS_MIGRATED)
        rows = (yield self._statement(REVISION)) if is_migrated else ()
        return rows[0][0] if rows else None

    def _see_worker(self, worker: str, about: str | None) -> Step[None]:
        yield self._statement(SEE_WORKER, worker=worker, about=about)

    def _extend(self, leases: Sequence[Lease], lease_s: float) -> Step[None]:
        yield self._statement(EXTEND, lease_s=lease_s, **_named(leases))

    def _held(self, leases: Sequence[Lease]) -> Step[frozenset[Lease]]:
        rows = yield self._statement(HELD, **_named(leases))
        return frozenset(Lease(job_id, token) for job_id, token in rows)

    def _insert_record(self, lease: Lease) -> Step[Recorded | None]:
        rows = yield self._statement(COMMIT_RECORD, job_id=lease.job_id, token=lease.token)
        return Recorded(lease, int(rows[0][0])) if rows else None

    def _insert_records(self, leases: Sequence[Lease]) -> Step[list[Recorded]]:
        rows = yield self._statement(COMMIT_RECORDS, **_named(leases))
        return [Recorded(Lease(row[0], row[1]), int(row[2])) for row in rows]

    def _records(self, leases: Sequence[Lease]) -> Step[dict[int, Record]]:
        rows = yield self._statement(RECORDS, job_ids=[lease.job_id for lease in leases])
        return {job_id: Record(token, Outcome(outcome)) for job_id, token, outcome in rows}

    def _lock(
        self, leases: Sequence[Lease], *, skip_locked: bool = False
    ) -> Step[list[LeasedAttempt]]:
        template = LOCK_LEASES_FREE if skip_locked else LOCK_LEASES
        rows = yield self._statement(template, **_named(leases))
        return [LeasedAttempt(Lease(row[0], row[1]), *row[2:]) for row in rows]

    def _lock_expired(self, limit: int) -> Step[list[LeasedAttempt]]:
        rows = yield self._statement(LOCK_EXPIRED, limit=limit)
        return [LeasedAttempt(Lease(row[0], row[1]), *row[2:]) for row in rows]

    def _exchange(
        self,
        returned: Sequence[Lease],
        committed: Sequence[Lease],
        claim: Claim,
        *,
        is_whole: bool = False,
    ) -> Step[Exchanged]:
        begin = [claim.since.get(queue, HEAD) for queue in claim.queues]
        only = {} if claim.only is None else {"only": list(claim.only)}
        statement = self._statement(
            EXCHANGE_THOSE if only else EXCHANGE,
            **only,
            **_named([*returned, *committed]),
            are_recorded=[False] * len(returned) + [True] * len(committed),
            worker=claim.worker,
            queues=list(claim.queues),
            from_priorities=[position.priority for position in begin],
            from_due_ats=[position.due_at for position in begin],
            from_job_ids=[position.job_id for position in begin],
            tasks=list(claim.tasks),
            limit=claim.limit,
            lease_s=claim.lease_s,
        )
        return exchanged(claim, (yield replace(statement, is_whole=is_whole)))

    def _end(self, endings: Sequence[Ending]) -> Step[None]:
        if not endings:
            return
        yield self._statement(
            END_ATTEMPTS,
            ends=[ending.end.value for ending in endings],
            error_types=[ending.error and ending.error.type for ending in endings],
            error_messages=[ending.error and ending.error.message for ending in endings],
            tracebacks=[ending.error and ending.error.traceback for ending in endings],
            retry_delays_s=[ending.retry_delay_s for ending in endings],
            attempts_spent=[ending.attempts_spent for ending in endings],
            are_dead=[ending.is_dead for ending in endings],
            **_named([ending.attempt.lease for ending in endings]),
        )

    def _release(self, leases: Sequence[Lease]) -> Step[None]:
        yield self._statement(RELEASE, **_named(leases))

    def _has_fate(self, job_id: int) -> Step[bool]:
        rows = yield self._statement(FATE, job_id=job_id)
        if not rows:
            raise job_not_found(job_id)
        return rows[0][0] is not None

    def _hold_place(self, job_id: int) -> Step[int | None]:
        for template in (SHARE_LEASE, UNSCHEDULE, UNREADY):
            rows = yield self._statement(template, job_id=job_id)
            if rows:
                return int(rows[0][0])
        return None

    def _insert_cancelled(self, lease: Lease) -> Step[bool]:
        rows = yield self._statement(RECORD_CANCELLED, job_id=lease.job_id, token=lease.token)
        return bool(rows)

    def prune_workers(
        self, kept_s: float = WORKERS_KEPT_S, *, is_dry_run: bool = False
    ) -> Step[int]:
        template = OLD_WORKERS if is_dry_run else LOCK_OLD_WORKERS
        rows = yield self._statement(template, kept_s=kept_s)
        if rows and not is_dry_run:
            yield self._statement(DELETE_WORKERS, workers=[worker for (worker,) in rows])
        return len(rows)

    def _walk(self, after: int, limit: int) -> Step[list[WalkedJob]]:
        rows = yield self._statement(WALK, after=after, limit=limit)
        return [walked_job(row) for row in rows]

    def _prunable(self, job_ids: Sequence[int], *, is_locked: bool) -> Step[list[int]]:
        template = LOCK_PRUNABLE if is_locked else PRUNABLE
        rows = yield self._statement(template, job_ids=list(job_ids), min_age_s=MIN_AGE_S)
        return [job_id for (job_id,) in rows]

    def _delete_jobs(self, job_ids: Sequence[int]) -> Step[None]:
        yield self._statement(DELETE_JOBS, job_ids=list(job_ids))

    def _whole(self, template: str, **params: object) -> Statement:
        return replace(self._statement(template, **params), is_whole=True)

    def _statement(self, template: str, **params: object) -> Statement:
        return Statement(_in_schema(template, self.schema), {"shard": self.shard, **params})


def channel_of(schema: str) -> str:
    """Where an enqueue notifies, and idle workers listen."""
    return f"{schema}.ready"


@cache
def _in_schema(template: str, schema: str) -> str:
    # Quoted: a schema may be named by a reserved word ("order").
    return template.replace("{schema}", f'"{schema}"')


def _named(leases: Sequence[Lease]) -> dict[str, list[int]]:
    return {
        "job_ids": [lease.job_id for lease in leases],
        "tokens": [lease.token for lease in leases],
    }

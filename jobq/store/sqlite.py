"""The steps of the protocol on SQLite 3.35 and later.

Every step runs in a `BEGIN IMMEDIATE` transaction, so there is one writer at a time and nothing
to lock: what a statement reads cannot change under it. (A deferred transaction that reads and
then writes fails with SQLITE_BUSY_SNAPSHOT, at once, however long the busy timeout.) What
PostgreSQL does with row locks and arrays is done here with that one lock and json_each.

Times are whole milliseconds since 1970, by SQLite's own clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from jobq.models import DEFAULT_SCHEMA
from jobq.protocol.decisions import Ending
from jobq.protocol.retention import MIN_AGE_S, WORKERS_KEPT_S, WalkedJob
from jobq.protocol.states import Outcome, State
from jobq.protocol.values import (
    HEAD,
    Claim,
    ClaimedJob,
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
from jobq.store.base import Store, job_not_found
from jobq.store.portable import Portable
from jobq.store.rows import JobRow, claimed_job, ended_attempt, job_status, walked_job
from jobq.store.step import Rows, Statement, Step

# SQLite before 3.42 has no unixepoch('subsec'); a Julian day is exact to the millisecond.
NOW = "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"

# Ids only grow, whatever was deleted: a frozen worker's job 7 must never meet a new job 7.
TAKE_IDS = f"""
INSERT INTO jobq_job_sequence (shard, last_id) VALUES (:shard, :count)
ON CONFLICT (shard) DO UPDATE SET last_id = last_id + :count
RETURNING last_id - :count, {NOW}
"""

INSERT_JOBS = """
INSERT INTO jobq_jobs (shard, id, queue, task, args, priority, max_attempts, idempotency_key,
                       created_at, line, headers)
SELECT :shard, :before + 1 + key, json_extract(value, '$.queue'), json_extract(value, '$.task'),
       json_extract(value, '$.args'), json_extract(value, '$.priority'),
       json_extract(value, '$.max_attempts'), lower(hex(randomblob(16))), :now,
       json_extract(value, '$.line'), json_extract(value, '$.headers')
FROM json_each(:requests)
"""

INSERT_READY = """
INSERT INTO jobq_ready (shard, queue, priority, due_at, job_id, task, attempts, token)
SELECT :shard, json_extract(value, '$.queue'), json_extract(value, '$.priority'),
       json_extract(value, '$.due_at'), :before + 1 + key, json_extract(value, '$.task'), 0, 0
FROM json_each(:requests)
WHERE json_extract(value, '$.due_at') <= :now AND json_extract(value, '$.line') IS NULL
"""

INSERT_THROTTLED = """
INSERT INTO jobq_throttled (shard, line, priority, due_at, job_id, task, attempts, token)
SELECT :shard, json_extract(value, '$.line'), json_extract(value, '$.priority'),
       json_extract(value, '$.due_at'), :before + 1 + key, json_extract(value, '$.task'), 0, 0
FROM json_each(:requests)
WHERE json_extract(value, '$.due_at') <= :now AND json_extract(value, '$.line') IS NOT NULL
"""

INSERT_SCHEDULED = """
INSERT INTO jobq_scheduled (shard, job_id, run_at, attempts, token)
SELECT :shard, :before + 1 + key, json_extract(value, '$.due_at'), 0, 0
FROM json_each(:requests) WHERE json_extract(value, '$.due_at') > :now
"""

DUE = f"""
SELECT job_id FROM jobq_scheduled WHERE shard = :shard AND run_at <= {NOW}
ORDER BY run_at LIMIT :limit
"""

DUE_THOSE = DUE.replace(
    "ORDER BY run_at", "AND job_id IN (SELECT value FROM json_each(:job_ids)) ORDER BY run_at"
)

PROMOTE = """
INSERT INTO jobq_ready (shard, queue, priority, due_at, job_id, task, attempts, token)
SELECT job.shard, job.queue, job.priority, due.run_at, job.id, job.task, due.attempts, due.token
FROM jobq_scheduled AS due JOIN jobq_jobs AS job ON job.shard = due.shard AND job.id = due.job_id
WHERE due.shard = :shard AND due.job_id IN (SELECT value FROM json_each(:job_ids))
  AND job.line IS NULL
"""

THROTTLE = (
    PROMOTE.replace("jobq_ready (shard, queue,", "jobq_throttled (shard, line,")
    .replace("job.shard, job.queue,", "job.shard, job.line,")
    .replace("job.line IS NULL", "job.line IS NOT NULL")
)

UNSCHEDULE = """
DELETE FROM jobq_scheduled
WHERE shard = :shard AND job_id IN (SELECT value FROM json_each(:job_ids))
RETURNING token
"""

READY_QUEUES = """
WITH RECURSIVE queues (queue) AS (
    SELECT min(queue) FROM jobq_ready WHERE shard = :shard
    UNION ALL
    SELECT (SELECT min(queue) FROM jobq_ready WHERE shard = :shard AND queue > queues.queue)
    FROM queues WHERE queues.queue IS NOT NULL
)
SELECT queue FROM queues WHERE queue IS NOT NULL
"""

READY_PRIORITIES = """
WITH RECURSIVE level (queue, priority) AS (
    SELECT value, (SELECT min(priority) FROM jobq_ready WHERE shard = :shard AND queue = value)
    FROM json_each(:queues)
    UNION ALL
    SELECT queue, (SELECT min(priority) FROM jobq_ready
                   WHERE shard = :shard AND queue = level.queue AND priority > level.priority)
    FROM level WHERE level.priority IS NOT NULL
)
SELECT queue, priority FROM level WHERE priority IS NOT NULL LIMIT 1000
"""

TAKE_READY = f"""
DELETE FROM jobq_ready WHERE rowid IN (
    SELECT rowid FROM jobq_ready
    WHERE shard = :shard AND queue = :queue AND priority >= :from_priority
      AND task IN (SELECT value FROM json_each(:tasks))
      AND NOT EXISTS (SELECT 1 FROM jobq_pauses
                      WHERE shard = :shard AND queue = :queue
                        AND (resumes_at IS NULL OR resumes_at > {NOW}))
    ORDER BY priority, due_at, job_id LIMIT :limit)
RETURNING job_id, due_at, attempts, token
"""

TAKE_READY_THOSE = TAKE_READY.replace(
    "      AND task IN",
    "      AND job_id IN (SELECT value FROM json_each(:only))\n      AND task IN",
)

INSERT_LEASES = f"""
INSERT INTO jobq_leases (shard, job_id, token, attempt, worker, due_at, acquired_at,
                         lease_expires_at)
SELECT :shard, json_extract(value, '$[0]'), json_extract(value, '$[3]') + 1,
       json_extract(value, '$[2]') + 1, :worker, json_extract(value, '$[1]'), {NOW},
       {NOW} + :lease_ms
FROM json_each(:taken)
"""

CLAIMED = """
SELECT lease.job_id, lease.token, job.queue, job.task, job.args, job.priority, lease.due_at,
       lease.attempt, job.max_attempts, job.idempotency_key, job.created_at,
       lease.acquired_at, job.headers
FROM jobq_leases AS lease JOIN jobq_jobs AS job
  ON job.shard = lease.shard AND job.id = lease.job_id
WHERE lease.shard = :shard
  AND lease.job_id IN (SELECT json_extract(value, '$[0]') FROM json_each(:taken))
ORDER BY job.priority, lease.due_at, lease.job_id
"""

UNKNOWN_TASKS = """
SELECT DISTINCT task FROM (
    SELECT task FROM jobq_ready
    WHERE shard = :shard AND queue IN (SELECT value FROM json_each(:queues))
      AND task NOT IN (SELECT value FROM json_each(:tasks))
    LIMIT 1000)
ORDER BY task
"""

SEE_WORKER = f"""
INSERT INTO jobq_workers (shard, id, started_at, seen_at, about)
VALUES (:shard, :worker, {NOW}, {NOW}, :about)
ON CONFLICT (shard, id) DO UPDATE SET seen_at = excluded.seen_at
"""

NAMED = "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:leases)"

EXTEND = f"""
UPDATE jobq_leases SET lease_expires_at = {NOW} + :lease_ms
WHERE shard = :shard AND (job_id, token) IN ({NAMED})
"""

HELD = f"""
SELECT job_id, token FROM jobq_leases WHERE shard = :shard AND (job_id, token) IN ({NAMED})
"""

# The COMMITTED boundary: the record is joined to the live lease. The write lock is held from
# here to the effect's commit, so no lease can be removed in between.
COMMIT_RECORD = f"""
INSERT INTO jobq_commit_records (shard, job_id, outcome, token, recorded_at, worker, due_at,
                                 acquired_at)
SELECT shard, job_id, 'committed', token, {NOW}, worker, due_at, acquired_at FROM jobq_leases
WHERE shard = :shard AND job_id = :job_id AND token = :token
ON CONFLICT (shard, job_id) DO NOTHING
RETURNING job_id
"""

# No statement of a handler can end the transaction (see jobq.database.sqlite), so a record with
# this token is this transaction's.
CONFIRM_RECORD = """
SELECT 1 FROM jobq_commit_records WHERE shard = :shard AND job_id = :job_id AND token = :token
"""

RECORD_RESULTS = """
UPDATE jobq_commit_records SET result = (
    SELECT json_extract(value, '$[1]') FROM json_each(:results)
    WHERE json_extract(value, '$[0]') = job_id)
WHERE shard = :shard
  AND job_id IN (SELECT json_extract(value, '$[0]') FROM json_each(:results))
"""

RECORDS = """
SELECT job_id, token, outcome FROM jobq_commit_records
WHERE shard = :shard AND job_id IN (SELECT value FROM json_each(:job_ids))
"""

LEASED = f"""
SELECT lease.job_id, lease.token, lease.attempt, job.max_attempts, job.task, lease.begun_as
FROM jobq_leases AS lease JOIN jobq_jobs AS job
  ON job.shard = lease.shard AND job.id = lease.job_id
WHERE lease.shard = :shard AND (lease.job_id, lease.token) IN ({NAMED})
ORDER BY lease.job_id
"""

EXPIRED = f"""
SELECT lease.job_id, lease.token, lease.attempt, job.max_attempts, job.task, lease.begun_as
FROM jobq_leases AS lease JOIN jobq_jobs AS job
  ON job.shard = lease.shard AND job.id = lease.job_id
WHERE lease.shard = :shard AND lease.lease_expires_at <= {NOW}
ORDER BY lease.lease_expires_at LIMIT :limit
"""

RECORD_RETURNED = f"""
INSERT INTO jobq_commit_records (shard, job_id, outcome, token, recorded_at, worker, due_at,
                                 acquired_at)
SELECT shard, job_id, 'committed', token, {NOW}, worker, due_at, acquired_at FROM jobq_leases
WHERE shard = :shard AND (job_id, token) IN ({NAMED})
ON CONFLICT (shard, job_id) DO NOTHING
RETURNING job_id, token
"""

FINALIZE = """
DELETE FROM jobq_leases
WHERE shard = :shard AND job_id IN (SELECT value FROM json_each(:job_ids))
  AND EXISTS (SELECT 1 FROM jobq_commit_records AS record
              WHERE record.shard = jobq_leases.shard AND record.job_id = jobq_leases.job_id)
"""

INSERT_ATTEMPTS = f"""
INSERT INTO jobq_attempts (shard, job_id, token, attempt, worker, started_at, ended_at, outcome,
                           error_type, error_message, traceback, lease_expires_at)
SELECT lease.shard, lease.job_id, lease.token, lease.attempt, lease.worker, lease.acquired_at,
       {NOW}, json_extract(value, '$.end'), json_extract(value, '$.error_type'),
       json_extract(value, '$.error_message'), json_extract(value, '$.traceback'),
       lease.lease_expires_at
FROM json_each(:endings) JOIN jobq_leases AS lease
  ON lease.shard = :shard AND lease.job_id = json_extract(value, '$.job_id')
"""

INSERT_RETRIES = f"""
INSERT INTO jobq_scheduled (shard, job_id, run_at, attempts, token)
SELECT lease.shard, lease.job_id, {NOW} + json_extract(value, '$.retry_delay_ms'),
       json_extract(value, '$.attempts_spent'), lease.token
FROM json_each(:endings) JOIN jobq_leases AS lease
  ON lease.shard = :shard AND lease.job_id = json_extract(value, '$.job_id')
WHERE json_extract(value, '$.retry_delay_ms') IS NOT NULL
"""

INSERT_DEAD = f"""
INSERT INTO jobq_commit_records (shard, job_id, outcome, token, recorded_at)
SELECT :shard, json_extract(value, '$.job_id'), 'dead', json_extract(value, '$.token'), {NOW}
FROM json_each(:endings) WHERE json_extract(value, '$.is_dead')
"""

DELETE_LEASES = f"""
DELETE FROM jobq_leases WHERE shard = :shard AND (job_id, token) IN ({NAMED})
"""

RETURN_READY = f"""
INSERT INTO jobq_ready (shard, queue, priority, due_at, job_id, task, attempts, token)
SELECT job.shard, job.queue, job.priority, lease.due_at, job.id, job.task, lease.attempt - 1,
       lease.token
FROM jobq_leases AS lease JOIN jobq_jobs AS job
  ON job.shard = lease.shard AND job.id = lease.job_id
WHERE lease.shard = :shard AND (lease.job_id, lease.token) IN ({NAMED})
  AND NOT EXISTS (SELECT 1 FROM jobq_commit_records AS record
                  WHERE record.shard = lease.shard AND record.job_id = lease.job_id)
  AND job.line IS NULL
"""

RETURN_THROTTLED = (
    RETURN_READY.replace("jobq_ready (shard, queue,", "jobq_throttled (shard, line,")
    .replace("job.shard, job.queue,", "job.shard, job.line,")
    .replace("job.line IS NULL", "job.line IS NOT NULL")
)

FATE = """
SELECT record.outcome FROM jobq_jobs AS job
LEFT JOIN jobq_commit_records AS record ON record.shard = job.shard AND record.job_id = job.id
WHERE job.shard = :shard AND job.id = :job_id
"""

LEASED_TOKEN = "SELECT token FROM jobq_leases WHERE shard = :shard AND job_id = :job_id"

UNREADY = """
DELETE FROM jobq_ready WHERE rowid = (
    SELECT ready.rowid FROM jobq_jobs AS job JOIN jobq_ready AS ready
      ON ready.shard = job.shard AND ready.queue = job.queue AND ready.priority = job.priority
     AND ready.job_id = job.id
    WHERE job.shard = :shard AND job.id = :job_id)
RETURNING token
"""

RECORD_CANCELLED = f"""
INSERT INTO jobq_commit_records (shard, job_id, outcome, token, recorded_at)
VALUES (:shard, :job_id, 'cancelled', :token, {NOW})
ON CONFLICT (shard, job_id) DO NOTHING
RETURNING job_id
"""

RECORD_REFUSALS = f"""
INSERT INTO jobq_refusals (shard, job_id, token, stage, worker, reason, refused_at)
SELECT :shard, json_extract(value, '$.job_id'), json_extract(value, '$.token'),
       json_extract(value, '$.stage'), :worker, json_extract(value, '$.reason'), {NOW}
FROM json_each(:refused)
WHERE EXISTS (SELECT 1 FROM jobq_jobs
              WHERE shard = :shard AND id = json_extract(value, '$.job_id'))
ON CONFLICT DO NOTHING
"""

STOP_WORKER = f"""
UPDATE jobq_workers SET seen_at = {NOW}, stopped_at = {NOW} WHERE shard = :shard AND id = :worker
"""

WALK = f"""
SELECT job.id, job.task, ({NOW} - job.created_at) / 1000.0, record.outcome,
       ({NOW} - record.recorded_at) / 1000.0
FROM (SELECT shard, id, task, created_at FROM jobq_jobs
      WHERE shard = :shard AND id > :after ORDER BY id LIMIT :limit) AS job
LEFT JOIN jobq_commit_records AS record ON record.shard = job.shard AND record.job_id = job.id
ORDER BY job.id
"""

PRUNABLE = f"""
SELECT record.job_id FROM jobq_commit_records AS record
WHERE record.shard = :shard AND record.job_id IN (SELECT value FROM json_each(:job_ids))
  AND record.recorded_at <= {NOW} - :min_age_ms
  AND NOT EXISTS (SELECT 1 FROM jobq_leases AS lease
                  WHERE lease.shard = record.shard AND lease.job_id = record.job_id)
"""

OF_JOBS = "shard = :shard AND job_id IN (SELECT value FROM json_each(:job_ids))"
DELETE_RECORDS = f"DELETE FROM jobq_commit_records WHERE {OF_JOBS}"
DELETE_ATTEMPTS = f"DELETE FROM jobq_attempts WHERE {OF_JOBS}"
DELETE_REFUSALS = f"DELETE FROM jobq_refusals WHERE {OF_JOBS}"
DELETE_STEPS = f"DELETE FROM jobq_steps WHERE {OF_JOBS}"
DELETE_JOBS = """
DELETE FROM jobq_jobs WHERE shard = :shard AND id IN (SELECT value FROM json_each(:job_ids))
"""

OLD_WORKERS = f"SELECT id FROM jobq_workers WHERE shard = :shard AND seen_at <= {NOW} - :kept_ms"

DELETE_WORKERS = """
DELETE FROM jobq_workers WHERE shard = :shard AND id IN (SELECT value FROM json_each(:workers))
"""

JOB = """
SELECT job.id, job.queue, job.task, job.args, job.priority, job.max_attempts,
       job.idempotency_key, job.created_at,
       scheduled.run_at, scheduled.attempts, ready.due_at, ready.attempts,
       lease.due_at, lease.attempt, lease.worker, lease.lease_expires_at,
       record.outcome, record.recorded_at,
       (SELECT attempt FROM jobq_attempts
        WHERE shard = job.shard AND job_id = job.id AND outcome <> 'snoozed'
        ORDER BY token DESC LIMIT 1),
       EXISTS (SELECT 1 FROM jobq_attempts
               WHERE shard = job.shard AND job_id = job.id AND token = record.token),
       throttled.due_at, throttled.attempts, ambiguous.attempt, record.result, waiting.token
FROM jobq_jobs AS job
LEFT JOIN jobq_throttled AS throttled
  ON throttled.shard = job.shard AND throttled.job_id = job.id
LEFT JOIN jobq_scheduled AS scheduled
  ON scheduled.shard = job.shard AND scheduled.job_id = job.id
LEFT JOIN jobq_ready AS ready
  ON ready.shard = job.shard AND ready.queue = job.queue AND ready.priority = job.priority
 AND ready.job_id = job.id
LEFT JOIN jobq_leases AS lease ON lease.shard = job.shard AND lease.job_id = job.id
LEFT JOIN jobq_commit_records AS record ON record.shard = job.shard AND record.job_id = job.id
LEFT JOIN jobq_waiting AS waiting ON waiting.shard = job.shard AND waiting.job_id = job.id
LEFT JOIN jobq_ambiguous AS ambiguous
  ON ambiguous.shard = job.shard AND ambiguous.job_id = job.id
WHERE job.shard = :shard AND job.id = :job_id
"""

ATTEMPTS = """
SELECT token, attempt, worker, started_at, ended_at, outcome, lease_expires_at, error_type,
       error_message, traceback
FROM jobq_attempts WHERE shard = :shard AND job_id = :job_id ORDER BY token
"""

COUNTS = """
SELECT 'scheduled', count(*) FROM jobq_scheduled WHERE shard = :shard
UNION ALL SELECT 'ready', count(*) FROM jobq_ready WHERE shard = :shard
UNION ALL SELECT 'throttled', count(*) FROM jobq_throttled WHERE shard = :shard
UNION ALL SELECT 'waiting', count(*) FROM jobq_waiting WHERE shard = :shard
UNION ALL SELECT 'ambiguous', count(*) FROM jobq_ambiguous WHERE shard = :shard
UNION ALL SELECT CASE WHEN record.outcome IS NULL THEN 'leased' ELSE 'committed' END, count(*)
    FROM jobq_leases AS lease LEFT JOIN jobq_commit_records AS record
      ON record.shard = lease.shard AND record.job_id = lease.job_id
    WHERE lease.shard = :shard GROUP BY 1
UNION ALL SELECT CASE outcome WHEN 'committed' THEN 'done' ELSE outcome END, count(*)
    FROM jobq_commit_records AS record
    WHERE shard = :shard AND NOT EXISTS (
        SELECT 1 FROM jobq_leases AS lease
        WHERE lease.shard = record.shard AND lease.job_id = record.job_id)
    GROUP BY 1
"""

IS_MIGRATED = "SELECT 1 FROM sqlite_master WHERE name = 'jobq_alembic_version'"
REVISION = "SELECT version_num FROM jobq_alembic_version"


class SqliteStore(Store):
    """The protocol on SQLite. `Store` says what each step promises."""

    def __init__(self, shard: int = 0) -> None:
        self.shard = shard
        self.portable = Portable("sqlite", DEFAULT_SCHEMA, shard)

    def enqueue(self, requests: Sequence[JobRequest], *, is_alone: bool = False) -> Step[list[int]]:
        templates = [INSERT_JOBS, INSERT_READY, INSERT_SCHEDULED]
        if any(request.line is not None for request in requests):
            templates.append(INSERT_THROTTLED)
        return self._enqueue(requests, templates)

    def enqueue_apart(self, requests: Sequence[JobRequest]) -> Step[list[int]]:
        return self._enqueue(requests, [INSERT_JOBS])

    def _enqueue(self, requests: Sequence[JobRequest], templates: Sequence[str]) -> Step[list[int]]:
        ((before, now),) = yield self._statement(TAKE_IDS, count=len(requests))
        wanted = json.dumps(
            [
                {
                    "task": r.task,
                    "args": r.args,
                    "queue": r.queue,
                    "priority": r.priority,
                    "max_attempts": r.max_attempts,
                    "due_at": now + _ms(r.delay_s) if r.run_at is None else to_ms(r.run_at),
                    "line": r.line,
                    "headers": r.headers,
                }
                for r in requests
            ]
        )
        for template in templates:
            yield self._statement(template, requests=wanted, before=before, now=now)
        return list(range(before + 1, before + 1 + len(requests)))

    def promote(self, limit: int) -> Step[int]:
        return (yield from self._promote((yield self._statement(DUE, limit=limit))))

    def promote_those(self, job_ids: Sequence[int]) -> Step[int]:
        rows = yield self._statement(
            DUE_THOSE, limit=len(job_ids), job_ids=json.dumps(list(job_ids))
        )
        return (yield from self._promote(rows))

    def _promote(self, rows: Rows) -> Step[int]:
        if rows:
            job_ids = json.dumps([job_id for (job_id,) in rows])
            yield self._statement(PROMOTE, job_ids=job_ids)
            yield self._statement(THROTTLE, job_ids=job_ids)
            yield self._statement(UNSCHEDULE, job_ids=job_ids)
        return len(rows)

    def ready_queues(self) -> Step[list[str]]:
        rows = yield self._statement(READY_QUEUES)
        return [queue for (queue,) in rows]

    def ready_priorities(self, queues: Sequence[str]) -> Step[list[tuple[str, int]]]:
        rows = yield self._statement(READY_PRIORITIES, queues=json.dumps(list(queues)))
        return [(queue, priority) for queue, priority in rows]

    def unknown_tasks(self, *, queues: Sequence[str], tasks: Sequence[str]) -> Step[list[str]]:
        rows = yield self._statement(
            UNKNOWN_TASKS, queues=json.dumps(list(queues)), tasks=json.dumps(list(tasks))
        )
        return [task for (task,) in rows]

    def confirm_record(self, recorded: Recorded) -> Step[bool]:
        job_id, token = recorded.lease
        rows = yield self._statement(CONFIRM_RECORD, job_id=job_id, token=token)
        return bool(rows)

    def record_results(self, results: Mapping[int, str]) -> Step[None]:
        yield self._statement(RECORD_RESULTS, results=json.dumps(list(results.items())))

    def listen(self, worker: str, queues: Sequence[str] | None) -> Step[None]:
        yield from ()  # every commit can be seen to have happened: see the link's `watched`

    def unlisten(self, worker: str) -> Step[None]:
        yield from ()

    def wake(self) -> Step[None]:
        yield from ()

    def record_refusals(self, worker: str, refused: Sequence[RefusedReport]) -> Step[None]:
        reports = [
            {
                "job_id": report.lease.job_id,
                "token": report.lease.token,
                "stage": report.stage.value,
                "reason": report.reason,
            }
            for report in refused
        ]
        yield self._statement(RECORD_REFUSALS, worker=worker, refused=json.dumps(reports))

    def stop_worker(self, worker: str) -> Step[None]:
        yield self._statement(STOP_WORKER, worker=worker)

    def job(self, job_id: int) -> Step[JobStatus | None]:
        rows = yield self._statement(JOB, job_id=job_id)
        if not rows:
            return None
        row = JobRow(*rows[0])
        return job_status(
            row._replace(
                idempotency_key=UUID(rows[0][6]),
                created_at=from_ms(rows[0][7]),
                run_at=_from_ms_or_none(rows[0][8]),
                ready_due_at=_from_ms_or_none(rows[0][10]),
                leased_due_at=_from_ms_or_none(rows[0][12]),
                lease_expires_at=_from_ms_or_none(rows[0][15]),
                recorded_at=_from_ms_or_none(rows[0][17]),
                throttled_due_at=_from_ms_or_none(rows[0][20]),
            )
        )

    def attempts(self, job_id: int) -> Step[list[EndedAttempt]]:
        rows = yield self._statement(ATTEMPTS, job_id=job_id)
        return [
            ended_attempt(
                (
                    *row[:3],
                    from_ms(row[3]),
                    from_ms(row[4]),
                    row[5],
                    _from_ms_or_none(row[6]),
                    *row[7:],
                )
            )
            for row in rows
        ]

    def counts(self) -> Step[dict[State, int]]:
        rows = yield self._statement(COUNTS)
        return dict.fromkeys(State, 0) | {State(name): count for name, count in rows}

    def revision(self) -> Step[str | None]:
        is_migrated = yield self._statement(IS_MIGRATED)
        rows = (yield self._statement(REVISION)) if is_migrated else ()
        return rows[0][0] if rows else None

    def _see_worker(self, worker: str, about: str | None) -> Step[None]:
        yield self._statement(SEE_WORKER, worker=worker, about=about)

    def _extend(self, leases: Sequence[Lease], lease_s: float) -> Step[None]:
        yield self._statement(EXTEND, leases=_named(leases), lease_ms=_ms(lease_s))

    def _held(self, leases: Sequence[Lease]) -> Step[frozenset[Lease]]:
        rows = yield self._statement(HELD, leases=_named(leases))
        return frozenset(Lease(job_id, token) for job_id, token in rows)

    def _insert_record(self, lease: Lease) -> Step[Recorded | None]:
        rows = yield self._statement(COMMIT_RECORD, job_id=lease.job_id, token=lease.token)
        return Recorded(lease, transaction=0) if rows else None

    def _insert_records(self, leases: Sequence[Lease]) -> Step[list[Recorded]]:
        rows = yield self._statement(RECORD_RETURNED, leases=_named(leases))
        return [Recorded(Lease(*row), transaction=0) for row in rows]

    def _records(self, leases: Sequence[Lease]) -> Step[dict[int, Record]]:
        rows = yield self._statement(RECORDS, job_ids=_job_ids(leases))
        return {job_id: Record(token, Outcome(outcome)) for job_id, token, outcome in rows}

    def _lock(
        self, leases: Sequence[Lease], *, skip_locked: bool = False
    ) -> Step[list[LeasedAttempt]]:
        rows = yield self._statement(LEASED, leases=_named(leases))
        return [LeasedAttempt(Lease(row[0], row[1]), *row[2:]) for row in rows]

    def _lock_expired(self, limit: int) -> Step[list[LeasedAttempt]]:
        rows = yield self._statement(EXPIRED, limit=limit)
        return [LeasedAttempt(Lease(row[0], row[1]), *row[2:]) for row in rows]

    def _exchange(
        self,
        returned: Sequence[Lease],
        committed: Sequence[Lease],
        claim: Claim,
        *,
        is_whole: bool = False,
    ) -> Step[Exchanged]:
        # A statement of SQLite's writes one table: several in one transaction, whole or not.
        written: set[Lease] = set()
        if returned:
            rows = yield self._statement(RECORD_RETURNED, leases=_named(returned))
            written = {Lease(*row) for row in rows}
            yield self._statement(DELETE_LEASES, leases=_named(returned))
        if committed:
            yield self._statement(FINALIZE, job_ids=_job_ids(committed))
        claimed = yield from self._take(claim)
        return Exchanged(claimed, [lease for lease in returned if lease not in written])

    def _take(self, claim: Claim) -> Step[list[ClaimedJob]]:
        # The rest of `since` would save nothing: what is deleted is out of the index at once.
        claimed: list[ClaimedJob] = []
        for queue in claim.queues:
            if len(claimed) >= claim.limit:
                break
            only = {} if claim.only is None else {"only": json.dumps(list(claim.only))}
            taken = yield self._statement(
                TAKE_READY_THOSE if only else TAKE_READY,
                **only,
                queue=queue,
                from_priority=claim.since.get(queue, HEAD).priority,
                tasks=json.dumps(list(claim.tasks)),
                limit=claim.limit - len(claimed),
            )
            if not taken:
                continue
            named = json.dumps([list(row) for row in taken])
            yield self._statement(
                INSERT_LEASES, taken=named, worker=claim.worker, lease_ms=_ms(claim.lease_s)
            )
            rows = yield self._statement(CLAIMED, taken=named)
            claimed += [
                claimed_job(
                    (
                        *row[:6],
                        from_ms(row[6]),
                        *row[7:9],
                        UUID(row[9]),
                        from_ms(row[10]),
                        from_ms(row[11]),
                        row[12],
                    )
                )
                for row in rows
            ]
        return claimed

    def _end(self, endings: Sequence[Ending]) -> Step[None]:
        if not endings:
            return
        listed = json.dumps(
            [
                {
                    "job_id": ending.attempt.lease.job_id,
                    "token": ending.attempt.lease.token,
                    "end": ending.end.value,
                    "error_type": ending.error and ending.error.type,
                    "error_message": ending.error and ending.error.message,
                    "traceback": ending.error and ending.error.traceback,
                    "retry_delay_ms": (
                        None if ending.retry_delay_s is None else _ms(ending.retry_delay_s)
                    ),
                    "attempts_spent": ending.attempts_spent,
                    "is_dead": ending.is_dead,
                }
                for ending in endings
            ]
        )
        for template in (INSERT_ATTEMPTS, INSERT_RETRIES, INSERT_DEAD):
            yield self._statement(template, endings=listed)
        leases = [ending.attempt.lease for ending in endings]
        yield self._statement(DELETE_LEASES, leases=_named(leases))

    def _release(self, leases: Sequence[Lease]) -> Step[None]:
        yield self._statement(RETURN_READY, leases=_named(leases))
        yield self._statement(RETURN_THROTTLED, leases=_named(leases))
        yield self._statement(DELETE_LEASES, leases=_named(leases))

    def _has_fate(self, job_id: int) -> Step[bool]:
        rows = yield self._statement(FATE, job_id=job_id)
        if not rows:
            raise job_not_found(job_id)
        return rows[0][0] is not None

    def _hold_place(self, job_id: int) -> Step[int | None]:
        rows = (
            (yield self._statement(LEASED_TOKEN, job_id=job_id))
            or (yield self._statement(UNSCHEDULE, job_ids=json.dumps([job_id])))
            or (yield self._statement(UNREADY, job_id=job_id))
        )
        return int(rows[0][0]) if rows else None

    def _insert_cancelled(self, lease: Lease) -> Step[bool]:
        rows = yield self._statement(RECORD_CANCELLED, job_id=lease.job_id, token=lease.token)
        return bool(rows)

    def prune_workers(
        self, kept_s: float = WORKERS_KEPT_S, *, is_dry_run: bool = False
    ) -> Step[int]:
        rows = yield self._statement(OLD_WORKERS, kept_ms=_ms(kept_s))
        if rows and not is_dry_run:
            workers = json.dumps([worker for (worker,) in rows])
            yield self._statement(DELETE_WORKERS, workers=workers)
        return len(rows)

    def _walk(self, after: int, limit: int) -> Step[list[WalkedJob]]:
        rows = yield self._statement(WALK, after=after, limit=limit)
        return [walked_job(row) for row in rows]

    def _prunable(self, job_ids: Sequence[int], *, is_locked: bool) -> Step[list[int]]:
        rows = yield self._statement(
            PRUNABLE, job_ids=json.dumps(list(job_ids)), min_age_ms=_ms(MIN_AGE_S)
        )
        return [job_id for (job_id,) in rows]

    def _delete_jobs(self, job_ids: Sequence[int]) -> Step[None]:
        named = json.dumps(list(job_ids))
        for template in (
            DELETE_RECORDS,
            DELETE_ATTEMPTS,
            DELETE_REFUSALS,
            DELETE_STEPS,
            DELETE_JOBS,
        ):
            yield self._statement(template, job_ids=named)

    def _statement(self, sql: str, **params: object) -> Statement:
        return Statement(sql, {"shard": self.shard, **params})


def _named(leases: Sequence[Lease]) -> str:
    return json.dumps([[lease.job_id, lease.token] for lease in leases])


def _job_ids(leases: Sequence[Lease]) -> str:
    return json.dumps([lease.job_id for lease in leases])


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def from_ms(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


def _from_ms_or_none(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else from_ms(milliseconds)

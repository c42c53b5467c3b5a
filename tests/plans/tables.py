"""A long queue: 100,000 jobs, each in the one place that it would be in."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

READY = range(1, 40_001)
SCHEDULED = range(40_001, 60_001)
LEASED = range(60_001, 80_001)
ENDED = range(80_001, 100_001)
AMBIGUOUS = range(100_001, 120_001)
"""Their jobs' own rows are of no interest here, and left out."""
QUEUES = [f"queue_{n}" for n in range(4)]
TASKS = [f"task_{n}" for n in range(10)]

# Statistics are the test's to take: the server's own would come at a time of their own.
LEAVE_ALONE = """
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'jobq' LOOP
        EXECUTE format('ALTER TABLE jobq.%I SET (autovacuum_enabled = false)', name);
    END LOOP;
END $$
"""

# One in 400 of those scheduled is due, and of the leases expired.
LOAD = f"""
INSERT INTO jobq.jobs (id, queue, task, args, priority, max_attempts, idempotency_key, created_at)
OVERRIDING SYSTEM VALUE
SELECT id, 'queue_' || id % 4, 'task_' || id % 10, '{{}}', id % 3, 5, gen_random_uuid(),
       now() - interval '2 days'
FROM generate_series({READY[0]}, {ENDED[-1]}) AS id;
SELECT setval('jobq.jobs_id_seq', {ENDED[-1]});
INSERT INTO jobq.ready (queue, priority, due_at, job_id, task, attempts, token)
SELECT queue, priority, created_at + id * interval '1 ms', id, task, 0, 0
FROM jobq.jobs WHERE id <= {READY[-1]};
INSERT INTO jobq.scheduled (job_id, run_at, attempts, token)
SELECT id, now() + CASE id % 400 WHEN 0 THEN -1 ELSE id END * interval '1 s', 0, 0
FROM generate_series({SCHEDULED[0]}, {SCHEDULED[-1]}) AS id;
INSERT INTO jobq.leases (job_id, token, attempt, worker, due_at, acquired_at, lease_expires_at)
SELECT id, 1, 1, 'w', now(), now(),
       now() + CASE id % 400 WHEN 0 THEN -1 ELSE id END * interval '1 s'
FROM generate_series({LEASED[0]}, {LEASED[-1]}) AS id;
INSERT INTO jobq.commit_records (job_id, outcome, token, recorded_at)
SELECT id, 'committed', 1, now() - interval '1 day'
FROM generate_series({ENDED[0]}, {ENDED[-1]}) AS id;
INSERT INTO jobq.attempts (job_id, token, attempt, worker, started_at, ended_at, outcome)
SELECT id, 0, 1, 'w', now(), now(), 'failed'
FROM generate_series({ENDED[0]}, {ENDED[-1]}) AS id;
INSERT INTO jobq.refusals (job_id, token, stage, worker, reason, refused_at)
SELECT id, 0, 'commit', 'w', 'lease_lost', now()
FROM generate_series({ENDED[0]}, {ENDED[-1]}) AS id;
INSERT INTO jobq.steps (job_id, name, token, result, recorded_at)
SELECT id, 'call', 1, '{{}}', now() FROM generate_series({ENDED[0]}, {ENDED[-1]}) AS id;
INSERT INTO jobq.ambiguous (job_id, token, attempt, parked_at)
SELECT id, 1, 1, now()
FROM generate_series({AMBIGUOUS[0]}, {AMBIGUOUS[-1]}) AS id
"""

# What half a day does: jobs are claimed and end, retries move on, heartbeats extend. Odd jobs
# only: the statements name even ones.
CHURN = f"""
WITH taken AS (DELETE FROM jobq.ready WHERE job_id % 2 = 1 RETURNING *)
INSERT INTO jobq.leases (job_id, token, attempt, worker, due_at, acquired_at, lease_expires_at)
SELECT job_id, 1, 1, 'w', due_at, now(), now() + interval '1 day' FROM taken;
UPDATE jobq.leases SET lease_expires_at = lease_expires_at + interval '10 s'
WHERE lease_expires_at > now();
WITH ended AS (DELETE FROM jobq.leases WHERE job_id % 2 = 1 RETURNING job_id)
INSERT INTO jobq.commit_records (job_id, outcome, token, recorded_at)
SELECT job_id, 'committed', 1, now() FROM ended;
WITH moved AS (DELETE FROM jobq.scheduled WHERE job_id % 2 = 1 RETURNING *)
INSERT INTO jobq.ready (queue, priority, due_at, job_id, task, attempts, token)
SELECT queue, priority, run_at, job_id, task, attempts, token
FROM moved JOIN jobq.jobs ON id = job_id;
DELETE FROM jobq.attempts WHERE job_id % 2 = 0 AND job_id < {ENDED[-1] - 10_000}
"""


def leave_alone(connection: Connection[Any]) -> None:
    connection.execute(LEAVE_ALONE)


def load(connection: Connection[Any]) -> None:
    connection.execute(LOAD.encode())


def churn(connection: Connection[Any]) -> None:
    for statement in CHURN.split(";"):
        connection.execute(statement.encode())

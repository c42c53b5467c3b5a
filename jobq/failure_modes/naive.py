"""The queue everybody writes first, as the pre-fix demonstration of FM_001.

It claims with `FOR UPDATE SKIP LOCKED`, leases with `lease_expires_at` and recovers expired
leases, exactly as jobq does. It has no commit record: an effect is applied in a transaction of
its own, and the job is marked done afterwards by its id.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from jobq.client import JobQueue
from jobq.failure_modes.weakened import WeakenedQueue
from jobq.protocol.values import Claim, Exchanged, Lease, Recorded
from jobq.store import PostgresStore, SqliteStore, Store
from jobq.store.sqlite import NOW
from jobq.store.step import Step

# Whoever says "done" is believed: no token, no question whether the lease is still held.
MARK_DONE_POSTGRES = """
WITH gone AS (
    DELETE FROM {schema}.leases
    WHERE shard = %(shard)s AND job_id = ANY (%(job_ids)s::bigint[])
)
INSERT INTO {schema}.commit_records (shard, job_id, outcome, token, recorded_at)
SELECT %(shard)s, job_id, 'committed', 0, clock_timestamp()
FROM unnest(%(job_ids)s::bigint[]) AS done (job_id)
ON CONFLICT (shard, job_id) DO NOTHING
"""

FORGET_LEASE_SQLITE = """
DELETE FROM jobq_leases WHERE shard = :shard AND job_id IN (SELECT value FROM json_each(:job_ids))
"""

MARK_DONE_SQLITE = f"""
INSERT INTO jobq_commit_records (shard, job_id, outcome, token, recorded_at)
SELECT :shard, value, 'committed', 0, {NOW} FROM json_each(:job_ids) WHERE true
ON CONFLICT (shard, job_id) DO NOTHING
"""


class _WithoutCommitRecord(Store):
    """The effect's transaction writes no record and asks for no lease."""

    def _insert_record(self, lease: Lease) -> Step[Recorded | None]:
        yield from ()
        return Recorded(lease, transaction=0)

    def confirm_record(self, recorded: Recorded) -> Step[bool]:
        yield from ()
        return True


class NaivePostgresStore(_WithoutCommitRecord, PostgresStore):
    def _exchange(
        self,
        returned: Sequence[Lease],
        committed: Sequence[Lease],
        claim: Claim,
        *,
        is_whole: bool = False,
    ) -> Step[Exchanged]:
        if committed:
            yield self._statement(MARK_DONE_POSTGRES, job_ids=[lease.job_id for lease in committed])
        alone = is_whole and not committed
        return (yield from super()._exchange(returned, (), claim, is_whole=alone))


class NaiveSqliteStore(_WithoutCommitRecord, SqliteStore):
    def _exchange(
        self,
        returned: Sequence[Lease],
        committed: Sequence[Lease],
        claim: Claim,
        *,
        is_whole: bool = False,
    ) -> Step[Exchanged]:
        job_ids = json.dumps([lease.job_id for lease in committed])
        yield self._statement(FORGET_LEASE_SQLITE, job_ids=job_ids)
        yield self._statement(MARK_DONE_SQLITE, job_ids=job_ids)
        return (yield from super()._exchange(returned, (), claim, is_whole=is_whole))


def naive_store(store: Store) -> Store:
    """Return the naive counterpart of a backend's store."""
    if isinstance(store, PostgresStore):
        return NaivePostgresStore(store.schema, store.shard)
    return NaiveSqliteStore(store.shard)


def naive_queue(*, schema: str) -> JobQueue:
    """Return a `JobQueue` whose workers apply effects without a commit record."""
    return WeakenedQueue(naive_store, schema=schema)

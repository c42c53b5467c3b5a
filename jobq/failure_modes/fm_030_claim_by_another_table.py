"""FM_030: whether a job is free is decided by a table that the claim does not lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import LEASE_S, TASK, Shop
from jobq.failure_modes.transactions import WAIT_S, OpenTransaction, parties_of
from jobq.failure_modes.weakened import by
from jobq.protocol.values import ClaimedJob
from jobq.store import Store
from jobq.store.postgres import EXCHANGE, PostgresStore
from jobq.store.step import Statement, Step

GATE_KEY = 30
# Volatile, so that it is called for every row, when the statement's snapshot is long taken.
GATE = f"""
CREATE FUNCTION jobq.fm_gate() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared({GATE_KEY});
    RETURN true;
END $$
"""
CLOSE_GATE = f"SELECT pg_advisory_xact_lock({GATE_KEY})"
BEFORE_THE_GATE = "task = ANY (%(tasks)s::text[])"

# One table of jobs, another of leases; a job without a lease is free. The jobs row is locked and
# looked at again once the lock is held, and it is as it was: what has changed is the other table,
# and that was read with the snapshot from before.
CLAIM_WITHOUT_LEASE = """
WITH taken AS (
    SELECT jobs.id FROM {schema}.jobs
    WHERE jobs.shard = %(shard)s AND jobs.queue = ANY (%(queues)s::text[])
      AND jobs.task = ANY (%(tasks)s::text[])
      AND NOT EXISTS (SELECT FROM {schema}.leases AS lease
                      WHERE lease.shard = jobs.shard AND lease.job_id = jobs.id)
    ORDER BY jobs.priority, jobs.id
    LIMIT %(limit)s
    FOR UPDATE OF jobs SKIP LOCKED
), lease AS (
    INSERT INTO {schema}.leases (shard, job_id, token, attempt, worker, due_at, acquired_at,
                                 lease_expires_at)
    SELECT %(shard)s, id, 1, 1, %(worker)s, clock_timestamp(), clock_timestamp(),
           clock_timestamp() + make_interval(secs => %(lease_s)s)
    FROM taken
    ON CONFLICT (shard, job_id) DO UPDATE
    SET token = leases.token + 1, attempt = leases.attempt + 1, worker = excluded.worker
    RETURNING job_id, token, attempt, due_at, acquired_at
)
SELECT lease.job_id, lease.token, jobs.queue, jobs.task, jobs.args::text, jobs.priority,
       lease.due_at, lease.attempt, jobs.max_attempts, jobs.idempotency_key, jobs.created_at,
       lease.acquired_at, jobs.headers
FROM lease JOIN {schema}.jobs ON jobs.shard = %(shard)s AND jobs.id = lease.job_id
"""


class _FreeWithoutLease(PostgresStore):
    """What is missing: a place. Nothing is taken out of `ready`; the lease alone tells who runs."""

    def _statement(self, template: str, **params: object) -> Statement:
        instead = CLAIM_WITHOUT_LEASE if template == EXCHANGE else template
        return super()._statement(instead, **params)


class _Gated(PostgresStore):
    """Its claim stops in the middle of its statement, between the snapshot and the lock."""

    def _statement(self, template: str, **params: object) -> Statement:
        gated = f"{BEFORE_THE_GATE} AND {{schema}}.fm_gate()"
        statement = super()._statement(template, **params)
        sql = statement.sql.replace(BEFORE_THE_GATE, gated.replace("{schema}", f'"{self.schema}"'))
        return Statement(sql, statement.params)


def claim(store: Store, worker: str) -> Step[list[ClaimedJob]]:
    return store.claim(worker=worker, queues=["default"], tasks=[TASK], limit=1, lease_s=LEASE_S)


def play(shop: Shop) -> Finding:
    """A's claim has its snapshot; B claims the job; A's claim goes on."""
    job_id = shop.enqueue()
    shop.sql(GATE)
    b: list[ClaimedJob] = []
    a = play_gap(shop, lambda: b.extend(shop.claim("B")))
    holders = [name for name, jobs in (("B", b), ("A", a)) if jobs]
    leases = shop.sql(f"SELECT token, worker FROM jobq.leases WHERE job_id = {job_id}")
    return Finding(
        is_harmed=len(holders) > 1,
        detail=f"one job, given to {' and to '.join(holders)}",
        seen={"holders": holders, "leases": leases},
    )


def play_gap(
    shop: Shop,
    meanwhile: Callable[[], object],
    prepare: Callable[[OpenTransaction], None] = lambda _: None,
) -> list[ClaimedJob]:
    """Return what A's claim got, when this took place between its snapshot and its lock."""
    store = by(_Gated)(shop.database.store)
    with parties_of(shop) as parties:
        gatekeeper, claiming = parties.open(), parties.open()
        gatekeeper.sql(CLOSE_GATE)
        prepare(claiming)
        started: Future[list[ClaimedJob]] = claiming.start(claim(store, "A"))
        parties.wait_until_blocked(claiming.pid)
        meanwhile()
        gatekeeper.rollback()
        claimed = started.result(WAIT_S)
        claiming.commit()
        return claimed


def reproduce(shop: Shop) -> Finding:
    """On jobs that are free when a second table holds no lease for them."""
    shop.weaken(by(_FreeWithoutLease))
    return play(shop)


FM = FailureMode(
    id="FM_030",
    title="claim decided by another table",
    invariants=("I5",),
    reproduce=reproduce,
    prevent=play,
    not_on_sqlite="one writer at a time: nothing can happen inside a claim",
)

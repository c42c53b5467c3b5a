"""FM_007: a zombie waits behind the newer attempt and commits when that one rolls back."""

from __future__ import annotations

from jobq.errors import Refusal
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import WAIT_S, parties_of
from jobq.protocol.values import Lease, Recorded
from jobq.store import PostgresStore, SqliteStore, Store
from jobq.store.sqlite import NOW
from jobq.store.step import Step

BARE_RECORD_POSTGRES = """
INSERT INTO {schema}.commit_records (shard, job_id, outcome, token, recorded_at)
VALUES (%(shard)s, %(job_id)s, 'committed', %(token)s, clock_timestamp())
ON CONFLICT (shard, job_id) DO NOTHING
RETURNING pg_current_xact_id()::text
"""

BARE_RECORD_SQLITE = f"""
INSERT INTO jobq_commit_records (shard, job_id, outcome, token, recorded_at)
VALUES (:shard, :job_id, 'committed', :token, {NOW})
ON CONFLICT (shard, job_id) DO NOTHING
RETURNING job_id
"""


class _PostgresBareRecord(PostgresStore):
    """What is missing: the join to the live lease. A unique key alone is the well-known recipe
    (an inbox table, an idempotency table), and it does keep the effect from being applied twice."""

    def _insert_record(self, lease: Lease) -> Step[Recorded | None]:
        sql = BARE_RECORD_POSTGRES
        rows = yield self._statement(sql, job_id=lease.job_id, token=lease.token)
        return Recorded(lease, int(rows[0][0])) if rows else None


class _SqliteBareRecord(SqliteStore):
    def _insert_record(self, lease: Lease) -> Step[Recorded | None]:
        sql = BARE_RECORD_SQLITE
        rows = yield self._statement(sql, job_id=lease.job_id, token=lease.token)
        return Recorded(lease, transaction=0) if rows else None


def bare_record(store: Store) -> Store:
    if isinstance(store, PostgresStore):
        return _PostgresBareRecord(store.schema, store.shard)
    return _SqliteBareRecord(store.shard)


def play(shop: Shop, *, b_commits: bool = False) -> Finding:
    """B is inside its effect when A, whose lease B has, comes to its commit boundary."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")
    if shop.is_sqlite:  # one writer at a time: A can only come when B is through
        has_waited = False
        effect_of_b(shop, b, b_commits=b_commits)
        late = shop.effect(a, "A")
        late.charge()
        late.commit()
        refusal: BaseException | None = late.refusal
    else:
        has_waited, refusal = _commits_beside_each_other(shop, a, b, b_commits=b_commits)
    if not b_commits:
        shop.fail(b)
        shop.promote()
        for claimed in shop.claim("C"):
            effect = shop.effect(claimed.lease, "C")
            effect.charge()
            effect.commit()
            shop.finalize(claimed.lease)
    charged_by = shop.ledger()
    return Finding(
        is_harmed="A" in charged_by,
        detail=(
            ("A waited for all of B's transaction" if has_waited else "A did not wait for B")
            + (f" and was refused ({type(refusal).__name__})" if refusal else "")
            + (" and committed on a lease it had lost" if "A" in charged_by else "")
        ),
        seen={
            "has_waited": has_waited,
            "refusal": type(refusal).__name__ if refusal else None,
            "charged_by": charged_by,
            "records": shop.records(),
            "newest_token_when_a_came": b.token,
            "state": shop.state(job_id),
        },
    )


def effect_of_b(shop: Shop, b: Lease, *, b_commits: bool) -> None:
    effect = shop.effect(b, "B")
    effect.charge()
    if b_commits:
        effect.commit()
    else:
        effect.roll_back()


def _commits_beside_each_other(
    shop: Shop, a: Lease, b: Lease, *, b_commits: bool
) -> tuple[bool, BaseException | None]:
    with parties_of(shop) as parties:
        late, newer = parties.open(), parties.open()
        newer.run(shop.database.store.commit_record(b))
        started = late.start(shop.database.store.commit_record(a))
        parties.wait_until_blocked_or_done(late.pid, started)
        newer.sql(f"INSERT INTO ledger VALUES ({b.job_id}, 'B')")
        has_waited = parties.wait_until_blocked_or_done(late.pid, started)
        if b_commits:
            newer.commit()
        else:
            newer.rollback()
        refusal = started.exception(WAIT_S)
        if refusal is None:
            late.sql(f"INSERT INTO ledger VALUES ({a.job_id}, 'A')")
            late.commit()
        elif not isinstance(refusal, Refusal):
            raise refusal
    return has_waited, refusal


def reproduce(shop: Shop) -> Finding:
    """On a unique record that asks for no lease."""
    shop.weaken(bare_record)
    return play(shop)


FM = FailureMode(
    id="FM_007",
    title="zombie wins after a rollback",
    invariants=("I4",),
    reproduce=reproduce,
    prevent=play,
)

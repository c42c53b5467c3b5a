"""FM_014: leases go by the clock of whoever takes them, and clocks differ."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import LEASE_S, Shop
from jobq.store import PostgresStore, SqliteStore, Store
from jobq.store.sqlite import NOW
from jobq.store.step import Statement

HOUR_S = 3600.0

LEASE_LEFT_POSTGRES = """
SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float8
FROM jobq.leases WHERE job_id = {job_id}
"""
LEASE_LEFT_SQLITE = f"""
SELECT (lease_expires_at - {NOW}) / 1000.0 FROM jobq.leases WHERE job_id = {{job_id}}
"""


class WorkerClockPostgresStore(PostgresStore):
    """Sends along what time it is: `datetime.now() + lease`, as an ORM makes it natural."""

    def _statement(self, template: str, **params: object) -> Statement:
        for asked in ("clock_timestamp()", "statement_timestamp()"):
            template = template.replace(asked, "to_timestamp(%(worker_now_s)s)")
        return super()._statement(template, worker_now_s=time.time(), **params)


class WorkerClockSqliteStore(SqliteStore):
    def _statement(self, sql: str, **params: object) -> Statement:
        by_worker = sql.replace(NOW, ":worker_now_ms")
        return super()._statement(by_worker, worker_now_ms=round(time.time() * 1000), **params)


def weaken(store: Store) -> Store:
    if isinstance(store, PostgresStore):
        return WorkerClockPostgresStore(store.schema, store.shard)
    return WorkerClockSqliteStore(store.shard)


@contextmanager
def clock_off_by(seconds: float) -> Iterator[None]:
    """A worker whose machine has another idea of the time."""
    right = time.time
    with patch("time.time", lambda: right() + seconds):
        yield


def play(shop: Shop) -> Finding:
    """One worker is an hour behind, one an hour ahead; the others are right."""
    taken_from_behind = shop.enqueue()
    with clock_off_by(-HOUR_S):
        shop.claim_one("A")  # and A is at work
    taken = shop.reconcile().retried
    shop.promote()
    starts = 1 + len(shop.claim("B"))

    job_id = shop.enqueue()
    with clock_off_by(HOUR_S):
        shop.claim_one("C")  # and C dies
    left_s = lease_left_s(shop, job_id)

    taken_by_ahead = shop.enqueue()
    shop.claim_one("D")  # and D is at work
    with clock_off_by(HOUR_S):
        taken += shop.reconcile().retried
    is_taken = {taken_from_behind, taken_by_ahead} & set(taken)

    return Finding(
        is_harmed=bool(is_taken) or left_s > LEASE_S,
        detail=f"{len(is_taken)} live jobs were taken away; a dead worker's lease of "
        f"{LEASE_S:g} s ends in {left_s:.0f} s",
        seen={
            "taken_from_behind": taken_from_behind in taken,
            "starts": starts,
            "taken_by_ahead": taken_by_ahead in taken,
            "left_s": left_s,
        },
    )


def lease_left_s(shop: Shop, job_id: int) -> float:
    """How long the job's lease lasts, by the database's clock."""
    query = LEASE_LEFT_SQLITE if shop.is_sqlite else LEASE_LEFT_POSTGRES
    ((left_s,),) = shop.sql(query.format(job_id=job_id))
    return float(left_s)


def reproduce(shop: Shop) -> Finding:
    """On a store that is told the time by its workers."""
    shop.weaken(weaken)
    return play(shop)


FM = FailureMode(
    id="FM_014",
    title="clock skew between workers",
    invariants=("I4", "I6"),
    reproduce=reproduce,
    prevent=play,
)

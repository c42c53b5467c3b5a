"""FM_009: the connection is lost at COMMIT, and nobody knows whether it took place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from jobq.commit import commit_effect_idempotent
from jobq.database.base import Database
from jobq.database.open import open_database
from jobq.database.url import parse_url
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.naive import NaivePostgresStore, naive_store
from jobq.failure_modes.proxy import Cut, Proxy, proxy_to
from jobq.failure_modes.shop import Shop, charge
from jobq.protocol.values import Lease
from jobq.store import PostgresStore, Store
from jobq.store.step import Step

CUTS = {"after it took place": Cut.AFTER_COMMIT, "before it arrived": Cut.BEFORE_COMMIT}


class OptimisticStore(NaivePostgresStore):
    """What is missing, as in the naive store: the record to look for. The naive worker takes a
    COMMIT without an answer for a failure; this one takes it for a success."""

    def settle(self, lease: Lease) -> Step[bool]:
        yield from ()
        return True


def optimistic_store(store: Store) -> Store:
    assert isinstance(store, PostgresStore)
    return OptimisticStore(store.schema, store.shard)


def play(shop: Shop) -> Finding:
    """Two orders. A's connection is lost at COMMIT: after it took place, and before it arrived."""
    with proxy_to(shop.url) as proxy:
        wired = open_database(parse_url(proxy.url), schema=shop.schema)
        wired.store = shop.database.store
        try:
            facts = {name: play_cut(shop, wired, proxy, cut) for name, cut in CUTS.items()}
        finally:
            wired.close()
    harms = [HARM[len(seen["charged_by"])] for seen in facts.values()]
    return Finding(
        is_harmed=any(harms),
        detail="; ".join(
            f"cut {name}: {harm or 'charged once'}" for name, harm in zip(facts, harms, strict=True)
        ),
        seen=facts,
    )


HARM = {0: "never charged", 1: "", 2: "charged twice"}


def play_cut(shop: Shop, wired: Database, proxy: Proxy, cut: Cut) -> dict[str, Any]:
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    error: Exception | None = None
    try:
        with commit_effect_idempotent(wired, a, psycopg.Connection) as connection:
            charge(connection, a, "A")
            proxy.cut(cut)
    except psycopg.OperationalError as lost:
        error = lost
        shop.fail(a)
    else:
        shop.finalize(a)
    shop.promote()
    for claimed in shop.claim("B"):
        effect = shop.effect(claimed.lease, "B")
        effect.charge()
        effect.commit()
        shop.finalize(claimed.lease)
    charged = shop.sql(f"SELECT worker FROM ledger WHERE job_id = {job_id} ORDER BY worker")
    return {
        "has_cut": proxy.has_cut,
        "a_was_told": "failure" if error else "success",
        "charged_by": [worker for (worker,) in charged],
        "state": shop.state(job_id),
    }


def reproduce(shop: Shop, weakened: Callable[[Store], Store] = naive_store) -> Finding:
    """On a queue without a record to look for, so that its workers have to guess."""
    shop.weaken(weakened)
    return play(shop)


FM = FailureMode(
    id="FM_009",
    title="ambiguous COMMIT",
    invariants=("I2",),
    reproduce=reproduce,
    prevent=play,
    not_on_sqlite="there is no wire between COMMIT and its answer: it returns, or the process "
    "is gone (FM_005)",
)

"""FM_026: a worker frozen inside its effect keeps its job from being recovered."""

from __future__ import annotations

import time

import psycopg

from jobq.database.open import open_database
from jobq.database.url import parse_url
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import WAIT_S
from jobq.worker import WorkerOptions

LEASE_S = 0.5
PATIENCE_S = 2 * LEASE_S
SESSION = "SELECT state FROM pg_stat_activity WHERE pid = {pid}"
_PAUSE_S = 0.02


def play(shop: Shop, idle_in_transaction_s: float | None, patience_s: float) -> Finding:
    """A falls silent between its record and COMMIT; the others do what they can, for a while."""
    database = open_database(
        parse_url(shop.url), schema=shop.schema, idle_in_transaction_s=idle_in_transaction_s
    )
    with Shop(database, shop.url, shop.schema) as shop_of_a:
        job_id = shop.enqueue()
        a = shop.claim_one("A")
        effect_of_a = shop_of_a.effect(a, "A")
        effect_of_a.charge()  # and not a word more: SIGSTOP, a cable, a migrated machine
        shop.expire(a)

        deadline_s, passes = time.monotonic() + patience_s, 1
        while not (recovered := shop.reconcile().retried) and time.monotonic() < deadline_s:
            time.sleep(_PAUSE_S)
            passes += 1
        session = [state for (state,) in shop.sql(SESSION.format(pid=effect_of_a.pid))]
        shop.promote()
        for claimed in shop.claim("B"):
            effect_of_b = shop.effect(claimed.lease, "B")
            effect_of_b.charge()
            effect_of_b.commit()
            shop.finalize(claimed.lease)
        done_while_frozen = shop.job(job_id).state

        woke_to = None
        try:
            effect_of_a.commit()  # A goes on where it was
        except psycopg.Error as error:
            woke_to = type(error).__name__

    charged_by = shop.ledger()
    return Finding(
        is_harmed=not recovered,
        detail=f"{passes} passes of the reconciler found nothing to recover while A stood still"
        if not recovered
        else f"the server ended A's transaction; one order, charged by {' and '.join(charged_by)}",
        seen={
            "recovered": list(recovered) == [job_id],
            "passes": passes,
            "session": session,
            "state": done_while_frozen,
            "woke_to": woke_to,
            "charged_by": charged_by,
        },
    )


def reproduce(shop: Shop) -> Finding:
    """On connections whose transactions may be idle for as long as they like."""
    return play(shop, None, PATIENCE_S)


def prevent(shop: Shop) -> Finding:
    """On connections as a worker opens them for leases of LEASE_S."""
    return play(shop, WorkerOptions(lease_s=LEASE_S).idle_in_transaction_s, WAIT_S)


FM = FailureMode(
    id="FM_026",
    title="worker frozen inside its effect",
    invariants=("I6",),
    reproduce=reproduce,
    prevent=prevent,
    not_on_sqlite="the frozen process holds the file's one write lock, and nothing but that "
    "process can give it back",
)

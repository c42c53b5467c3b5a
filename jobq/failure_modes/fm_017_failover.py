"""FM_017: a failover undoes what was acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from sqlalchemy.engine import make_url

from jobq.database.open import open_database
from jobq.embedded import EmbeddedPostgres
from jobq.errors import JobqError
from jobq.failure_modes.catalogue import FailureMode, Finding, Needs
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import WAIT_S, wait_until
from jobq.protocol.values import Lease

T = TypeVar("T")

SYNCHRONOUS = "ALTER SYSTEM SET synchronous_standby_names = '*'"
IS_SYNCHRONOUS = "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
CUT = "ALTER SYSTEM SET primary_conninfo = ''"
IS_CUT = "SELECT count(*) = 0 FROM pg_stat_replication"
RELOAD = "SELECT pg_reload_conf()"
CAUGHT_UP = """
SELECT count(*) = 1 AND bool_and(replay_lsn >= pg_current_wal_lsn()) FROM pg_stat_replication
"""
TWO_WAIT = "SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


def play(shop: Shop, *, is_synchronous: bool = True) -> Finding:
    """The link to the standby is cut, A charges, somebody enqueues, and the primary is lost."""
    assert shop.server is not None
    with (
        EmbeddedPostgres(standby_of=shop.server) as standby,
        shop_on_either(shop.server, standby) as site,
        ThreadPoolExecutor(2) as threads,
    ):
        if is_synchronous:
            wait_for_standby(site)
        job_id = site.enqueue()
        lease = site.claim_one("A")
        wait_for(site, CAUGHT_UP, "the standby to have caught up")
        cut_link(site, standby)

        charging = threads.submit(told, lambda: charge_as(site, lease, "A"))
        enqueuing = threads.submit(told, site.enqueue)
        if is_synchronous:
            wait_for(site, TWO_WAIT, "two commits to wait for the standby")
        else:
            wait_until(lambda: charging.done() and enqueuing.done(), "two commits")
        shop.server.stop("immediate")  # and it never comes back
        standby.promote()
        return _judge(site, job_id, lease, charging, enqueuing)


def _judge(
    site: Shop,
    job_id: int,
    lease: Lease,
    charging: Future[int | None],
    enqueuing: Future[int | None],
) -> Finding:
    """Compare what the clients were told with what the promoted standby knows."""
    is_told_committed = charging.result(WAIT_S) is not None
    enqueued = enqueuing.result(WAIT_S)
    is_committed = bool(site.records())
    is_enqueued = bool(site.sql(f"SELECT 1 FROM jobq.jobs WHERE id <> {job_id}"))
    # Life goes on: the lease expires, and whoever claims the job charges it.
    site.recover(lease)
    charge_as(site, site.claim_one("B"), "B")
    harms = [
        *(["told committed, undone and run again"] if is_told_committed > is_committed else []),
        *(["an acknowledged job is gone"] if enqueued is not None and not is_enqueued else []),
    ]
    return Finding(
        is_harmed=bool(harms),
        detail="; ".join(harms)
        or "nothing was acknowledged that the standby had not; the job was run again, and once",
        seen={
            "told_committed": is_told_committed,
            "told_enqueued": enqueued is not None,
            "committed": is_committed,
            "enqueued": is_enqueued,
            "ledger": site.ledger(),
            "zombie_is_refused": site.effect(lease, "A").refusal is not None,
        },
    )


@contextmanager
def shop_on_either(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> Iterator[Shop]:
    """A shop whose connections go to whichever of the two accepts writes."""
    hosts = ",".join(str(make_url(server.url()).query["host"]) for server in (primary, standby))
    url = make_url(primary.url()).update_query_dict(
        {"host": hosts, "target_session_attrs": "read-write"}
    )
    text = url.render_as_string(hide_password=False)
    with Shop(open_database(url, schema="jobq"), text) as site:
        yield site


def wait_for_standby(site: Shop) -> None:
    """From now on no commit is acknowledged before the standby has it."""
    site.sql(SYNCHRONOUS)
    site.sql(RELOAD)
    wait_for(site, IS_SYNCHRONOUS, "the standby to be synchronous")


def cut_link(site: Shop, standby: EmbeddedPostgres) -> None:
    """The standby goes on with what it has, and gets no more."""
    url = make_url(standby.url())
    with Shop(open_database(url, schema="jobq"), standby.url()) as replica:
        replica.sql(CUT)
        replica.sql(RELOAD)
    wait_for(site, IS_CUT, "the link to be cut")


def charge_as(site: Shop, lease: Lease, worker: str) -> int:
    """Charge and commit, whole; return the job's id."""
    effect = site.effect(lease, worker)
    effect.charge()
    effect.commit()
    return lease.job_id


def told(action: Callable[[], int]) -> int | None:
    """The answer, or None when there was an error in its place."""
    try:
        return action()
    except (JobqError, psycopg.OperationalError):
        return None


def wait_for(site: Shop, question: str, what: str) -> None:
    """Ask the site's database until it answers yes."""
    wait_until(lambda: bool(site.sql(question)[0][0]), what)


def reproduce(shop: Shop) -> Finding:
    """With a standby that is not waited for."""
    return play(shop, is_synchronous=False)


FM = FailureMode(
    id="FM_017",
    title="failover loses acknowledged commits",
    invariants=("I6",),
    reproduce=reproduce,
    prevent=play,
    needs=Needs.SERVER,
    not_on_sqlite="it has no standby",
)

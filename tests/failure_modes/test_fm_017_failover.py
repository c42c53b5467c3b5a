"""FM_017: a failover undoes what was acknowledged.

A standby streams from the primary, and nobody waits for it. The link is slow, or cut, at the moment
when the primary is lost. The standby is promoted, and it knows nothing of the last commits: a job
whose worker was told "committed" is leased again, a job whose enqueuer was told its id is gone.
Record and effect share their fate, so that in the database nothing is charged twice; but a receipt
that was sent on the strength of the acknowledgement is sent again.

No protocol in the database can know what the database has forgotten. The remedy is not to
acknowledge before the standby has it (`synchronous_standby_names`): then the COMMIT waits, its
outcome is unknown when the primary is lost, and jobq asks the promoted standby.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from jobq.embedded import EmbeddedPostgres
from jobq.failure_modes.fm_016_database_restart import DONE, jobq_worker
from jobq.failure_modes.fm_017_failover import (
    CAUGHT_UP,
    charge_as,
    cut_link,
    play,
    reproduce,
    shop_on_either,
    told,
    wait_for,
    wait_for_standby,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import WAIT_S, wait_until

WAITS = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


def test_reproduces_the_loss_of_acknowledged_commits(server_shop: Shop) -> None:
    found = reproduce(server_shop)

    assert found.is_harmed
    assert found.seen == {
        "told_committed": True,
        "told_enqueued": True,
        "committed": False,
        "enqueued": False,
        "ledger": ["B"],  # even so: once, for the record was undone with its effect
        "zombie_is_refused": True,
    }


def test_prevented_by_a_standby_that_is_waited_for(server_shop: Shop) -> None:
    found = play(server_shop)

    assert not found.is_harmed
    assert found.seen == {
        "told_committed": False,
        "told_enqueued": False,
        "committed": False,
        "enqueued": False,
        "ledger": ["B"],
        "zombie_is_refused": True,
    }


def test_prevented_for_a_worker_that_runs_through_the_failover(server_shop: Shop) -> None:
    """Its connections lead to whichever server accepts writes; nothing else is told to it."""
    jobs, before = 40, 10
    assert server_shop.server is not None
    with (
        EmbeddedPostgres(standby_of=server_shop.server) as standby,
        shop_on_either(server_shop.server, standby) as site,
    ):
        wait_for_standby(site)
        acknowledged = site.enqueue_many(jobs)
        permits = threading.Semaphore(before)
        with jobq_worker(site, site.url, permits):
            wait_until(lambda: len(site.ledger()) >= before, f"{before} charges")
            server_shop.server.stop("immediate")
            standby.promote()
            permits.release(jobs)
            wait_until(lambda: site.sql(DONE)[0][0] == jobs, "every job to be done")

        charged = site.sql("SELECT job_id FROM ledger ORDER BY job_id")
        assert [job_id for (job_id,) in charged] == acknowledged
        assert not violations(site, is_every_commit_charged=True)


@contextmanager
def commit_that_waits(
    primary: Shop,
) -> Iterator[tuple[Shop, EmbeddedPostgres, int, Future[int | None]]]:
    """A's COMMIT waits for a standby that has lost its link: the site, the standby, the server
    process that waits, and what A will be told."""
    assert primary.server is not None
    with (
        EmbeddedPostgres(standby_of=primary.server) as standby,
        shop_on_either(primary.server, standby) as site,
        ThreadPoolExecutor(1) as thread,
    ):
        wait_for_standby(site)
        site.enqueue()
        lease = site.claim_one("A")
        wait_for(site, CAUGHT_UP, "the standby to have caught up")
        cut_link(site, standby)
        charging = thread.submit(told, lambda: charge_as(site, lease, "A"))
        wait_until(lambda: len(site.sql(WAITS)) == 1, "A's COMMIT to wait for the standby")
        ((pid,),) = site.sql(WAITS)
        yield site, standby, pid, charging


def test_prevented_when_the_session_that_waits_is_ended(server_shop: Shop) -> None:
    """Its record can be seen from then on, and is on one server only. To settle what became of the
    COMMIT is to lock the lease: a write, whose own COMMIT waits for the standby in its turn."""
    with commit_that_waits(server_shop) as (site, standby, pid, charging):
        site.sql(f"SELECT pg_terminate_backend({pid})")
        wait_until(
            lambda: charging.done() or (bool(site.sql(WAITS)) and site.sql(WAITS) != [(pid,)]),
            "A to be told, or another COMMIT to wait for the standby",
        )
        assert site.records() == [(1, "committed")], "there, for all to see"
        assert not charging.done(), "and A is told nothing"

        assert server_shop.server is not None
        server_shop.server.stop("immediate")
        standby.promote()

        assert charging.result(WAIT_S) is None, "A asked the promoted standby"
        assert site.records() == []
        assert site.ledger() == []


def test_reproduces_it_by_a_cancelled_wait_with_a_standby_that_is_waited_for(
    server_shop: Shop,
) -> None:
    """PostgreSQL answers such a COMMIT with success and a warning. jobq does not prevent this."""
    with commit_that_waits(server_shop) as (site, standby, pid, charging):
        site.sql(f"SELECT pg_cancel_backend({pid})")
        assert charging.result(WAIT_S) is not None, "A is told committed"

        assert server_shop.server is not None
        server_shop.server.stop("immediate")
        standby.promote()

        assert site.records() == []
        assert site.ledger() == [], "record and effect are undone together, even so"

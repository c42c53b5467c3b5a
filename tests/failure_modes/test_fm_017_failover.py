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

from jobq.embedded import EmbeddedPostgres
from jobq.failure_modes.fm_016_database_restart import DONE, jobq_worker
from jobq.failure_modes.fm_017_failover import (
    play,
    reproduce,
    shop_on_either,
    wait_for_standby,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import wait_until


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

"""FM_035: a new job is given the id of an old one.

A job's id is the key of its commit record, half of its lease, and often the idempotency key that is
given to the world outside. Ids come back more easily than one thinks: SQLite without AUTOINCREMENT
gives the largest plus one, a partial restore leaves a sequence behind, a crash with
synchronous_commit off takes it back. A new job 7 then meets the record of the old one and is done
without having run; its payment is taken for the old one's; and a zombie of the old job 7 holds a
lease that looks like the new one's.

The fix is a counter that never goes back, on either backend, and keys for the outside that are
random (I4, I6). It goes as far as the database keeps what it acknowledged: over an asynchronous
failover the counter goes back after all, and the last tests show what that does and what helps.
"""

from __future__ import annotations

from jobq.embedded import EmbeddedPostgres
from jobq.errors import AlreadyCommitted
from jobq.failure_modes.fm_017_failover import (
    CAUGHT_UP,
    cut_link,
    shop_on_either,
    wait_for,
    wait_for_standby,
)
from jobq.failure_modes.fm_035_reused_ids import job_id_as_key, play, reproduce
from jobq.failure_modes.shop import Shop


def test_reproduces_jobs_that_are_taken_for_old_ones(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.is_harmed
    assert found.seen == {
        "is_reused": True,
        "is_charged": False,
        "is_paid": False,
        "zombie_is_refused": False,
    }


def test_prevented_by_ids_that_never_come_back(shop: Shop) -> None:
    found = play(shop)

    assert not found.is_harmed
    assert found.seen == {
        "is_reused": False,
        "is_charged": True,
        "is_paid": True,
        "zombie_is_refused": True,
    }


def test_prevented_for_whoever_uses_the_id_as_a_key(shop: Shop) -> None:
    """It is not what jobq recommends, but it is safe for as long as the database is."""
    assert not play(shop, job_id_as_key).is_harmed


def test_ids_grow_when_every_job_was_deleted(shop: Shop) -> None:
    last = shop.enqueue_many(3)[-1]
    for table in ("ready", "jobs"):
        shop.sql(f"DELETE FROM jobq.{table}")

    assert shop.enqueue() > last


def test_ids_grow_over_a_crash(server_shop: Shop) -> None:
    assert server_shop.server is not None
    last = server_shop.enqueue_many(3)[-1]

    server_shop.server.restart("immediate")

    assert server_shop.enqueue() > last


def test_reproduces_it_on_jobq_by_an_asynchronous_failover(server_shop: Shop) -> None:
    """jobq does not prevent this: the sequence and the claim are undone, and A is still alive."""
    assert server_shop.server is not None
    with (
        EmbeddedPostgres(standby_of=server_shop.server) as standby,
        shop_on_either(server_shop.server, standby) as site,
    ):
        wait_for(site, CAUGHT_UP, "the standby to have caught up")
        cut_link(site, standby)
        lost = site.enqueue()
        zombie = site.claim_one("A")
        server_shop.server.stop("immediate")
        standby.promote()

        new = site.enqueue()
        lease = site.claim_one("B")
        assert (new, lease) == (lost, zombie), (
            "another job, and it cannot be told from the lost one"
        )
        old_effect = site.effect(zombie, "A")
        old_effect.charge()
        old_effect.commit()
        new_effect = site.effect(lease, "B")

        assert isinstance(new_effect.refusal, AlreadyCommitted), "the new job is never charged"
        assert site.ledger() == ["A"], "what was applied is the lost job's effect"


def test_prevented_over_a_failover_by_a_standby_that_is_waited_for(server_shop: Shop) -> None:
    """An id that was acknowledged is on the standby, and so is the sequence's step."""
    assert server_shop.server is not None
    with (
        EmbeddedPostgres(standby_of=server_shop.server) as standby,
        shop_on_either(server_shop.server, standby) as site,
    ):
        wait_for_standby(site)
        acknowledged = site.enqueue()
        zombie = site.claim_one("A")
        server_shop.server.stop("immediate")
        standby.promote()

        site.recover(zombie)
        assert site.enqueue() > acknowledged
        assert site.claim_one("B").job_id == acknowledged
        assert site.effect(zombie, "A").refusal is not None

"""FM_035: a new job is given the id of an old one.

A job's id is the key of its commit record, half of its lease, and often the idempotency key that is
given to the world outside. Ids come back more easily than one thinks: SQLite without AUTOINCREMENT
gives the largest plus one, a partial restore leaves a sequence behind, a crash with
synchronous_commit off takes it back. A new job 7 then meets the record of the old one and is done
without having run; its payment is taken for the old one's; and a zombie of the old job 7 holds a
lease that looks like the new one's.

The fix is a counter that never goes back, on either backend, and keys for the outside that are
random (I4, I6).
"""

from __future__ import annotations

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

"""FM_033: one row that the database refuses keeps its whole batch from being done, every time.

To recover expired leases, to promote what is due, to claim, to hand in reports, to prune: each is
one statement for many rows, and a statement fails as a whole. A row that some constraint refuses
(it is torn, it came from a restore, something of the service's own refers to it) fails its batch,
and the worker tries again: the same batch, with the same row in it. Nothing moves any more.

The fix is that a batch which fails is taken apart (I6): in halves, until the row that fails is by
itself. It is told of and set aside for a while, and the others are done.
"""

from __future__ import annotations

import logging

import pytest

from jobq.failure_modes.fm_033_one_bad_row import (
    ROWS,
    SCENES,
    expired,
    play,
    refuse,
    reproduce,
)
from jobq.failure_modes.shop import Shop
from jobq.logs import FieldLogger
from jobq.protocol.states import State
from jobq.worker.apart import Apart


def test_reproduces_a_batch_that_is_never_done(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.is_harmed
    assert found.seen == dict.fromkeys(SCENES, ROWS - 1)


def test_prevented_by_taking_the_batch_apart(shop: Shop) -> None:
    found = play(shop)

    assert not found.is_harmed
    assert found.seen == dict.fromkeys(SCENES, 0)


def test_prevented_and_told_once_which_row_it_is(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """It is passed over for a while, and those behind it have its place in the batch."""
    job_ids = expired(shop)
    bad = job_ids[3]
    refuse(shop, "attempts", bad)
    link = shop.database.link()
    apart = Apart(shop.database.store, link, FieldLogger(logging.getLogger("jobq.worker")))

    recovered = [apart.reconcile(4, lambda _: 0.0) for _ in range(ROWS)]
    link.close()

    assert sorted(job_id for each in recovered for job_id in each.retried) == [
        job_id for job_id in job_ids if job_id != bad
    ]
    assert shop.state(bad) is State.LEASED
    told = [record for record in caplog.records if getattr(record, "job_id", None) == bad]
    assert len(told) == 1
    assert "refuses to recover it" in told[0].getMessage()
    assert told[0].exc_info is not None, "with the database's own words"


def test_a_lease_that_was_extended_meanwhile_is_left(shop: Shop) -> None:
    """Between the look for expired leases and the lock there is time for a heartbeat."""
    shop.enqueue_many(2)
    slow, gone = (claimed.lease for claimed in shop.claim("A", 2))
    shop.expire(gone)

    recovered = shop.database.run(shop.database.store.reconcile_those([slow, gone], lambda _: 0.0))

    assert recovered.retried == (gone.job_id,)
    assert shop.state(slow.job_id) is State.LEASED

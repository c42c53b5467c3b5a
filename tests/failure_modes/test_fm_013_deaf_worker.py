"""FM_013: a worker that waits to be told of a job is never told.

NOTIFY reaches whoever listens at that moment, once, and nobody keeps it. A listener whose session
is replaced misses what was said in between. One whose connection went half-open (a firewall that
forgot it, a pooler in transaction mode) misses everything from then on, sees no error, and looks
well to every supervisor. Its jobs wait for ever.

jobq's workers look for jobs themselves, every `poll_s` (invariant I6). Notifications wake them
earlier and can only make them faster; a connection that hangs is given up.
"""

from __future__ import annotations

import pytest

from jobq import JobQueue, State
from jobq.failure_modes.fm_013_deaf_worker import (
    Fault,
    half_open,
    jobq_worker,
    listening_worker,
    play,
    prevent,
    reproduce,
    terminated,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import TASK, Shop
from jobq.failure_modes.transactions import Parties, wait_until
from jobq.protocol.values import JobRequest

every_fault = pytest.mark.parametrize(
    "fault", [half_open, terminated], ids=lambda fault: fault.__name__
)


def test_reproduces_a_worker_that_waits_for_ever(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop)

    assert found.seen == {"charges": 1, "state": State.READY, "is_alive": True}
    assert found.is_harmed


@every_fault
def test_reproduces_it_by_each_fault(postgres_shop: Shop, fault: Fault) -> None:
    found = play(postgres_shop, listening_worker, fault)

    assert found.seen == {"charges": 1, "state": State.READY, "is_alive": True}


def test_prevented_by_looking(postgres_shop: Shop) -> None:
    found = prevent(postgres_shop)

    assert found.seen["charges"] == 2
    assert not found.is_harmed
    assert violations(postgres_shop, is_every_commit_charged=True) == {}


@every_fault
def test_prevented_under_each_fault(postgres_shop: Shop, fault: Fault) -> None:
    assert play(postgres_shop, jobq_worker, fault).seen["charges"] == 2


def test_prevented_for_jobs_that_nobody_announces(postgres_shop: Shop, parties: Parties) -> None:
    """One becomes due with time, one with the commit of a transaction that was open for long."""
    shop = postgres_shop
    app = JobQueue(shop.url)

    @app.task(name=TASK)
    def do_nothing() -> None:
        """Only to be done."""

    first = do_nothing.enqueue()
    later = do_nothing.using(delay=0.2).enqueue()
    open_for_long = parties.open()
    request = JobRequest(TASK, "{}", "default", 0, 5, None, 0.0)
    (hidden,) = open_for_long.run(shop.database.store.enqueue([request]))
    with app.worker(poll_s=0.05):
        for job in (first, later):
            wait_until(lambda: job.status().state is State.DONE, "a job to be done")  # noqa: B023
        open_for_long.commit()
        wait_until(lambda: shop.state(hidden) is State.DONE, "the hidden job to be done")
    app.close()

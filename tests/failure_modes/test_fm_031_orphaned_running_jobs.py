"""FM_031: a worker is killed, and its jobs stay "running" for ever.

A deploy, the kernel's out-of-memory killer, a node that is drained: a process ends in the middle
of its work and tells nobody. Where "running" is what the worker wrote and only the worker takes
back, its jobs run for ever: no worker claims them, no retry comes, and the queue looks busy.

In jobq a running job is a lease that ends, and every worker looks for leases that ended (invariant
I6). A worker may be killed at any statement: what it left behind is always a place from which the
next pass of a reconciler brings the job on.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from jobq import AttemptEnd, State
from jobq.failure_modes.fm_031_orphaned_running_jobs import (
    MOMENTS,
    WORKER,
    after_the_commit,
    bring_on,
    kill_inside,
    play,
    reproduce,
    while_claiming,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import BOOM, LEASE_S, Shop
from jobq.protocol.values import FailedAttempt, Lease
from jobq.store.base import Store
from jobq.store.step import Step
from tests.worker.charges import gated_inside
from tests.worker.conftest import Site, wait_for

MakeStep = Callable[[Store, Lease], Step[Any]]

# What a worker does with a lease that it holds; each is cut off after each of its statements.
STEPS: dict[str, MakeStep] = {
    "heartbeat": lambda store, lease: store.heartbeat(WORKER, [lease], LEASE_S),
    "commit_record": lambda store, lease: store.commit_record(lease),
    "complete": lambda store, lease: store.complete([lease]),
    "fail": lambda store, lease: store.fail(
        [FailedAttempt(lease, AttemptEnd.FAILED, BOOM, retry_delay_s=0.0)]
    ),
    "bury": lambda store, lease: store.fail(
        [FailedAttempt(lease, AttemptEnd.FAILED, BOOM, retry_delay_s=None)]
    ),
    "release": lambda store, lease: store.release([lease]),
}


def test_reproduces_jobs_that_run_for_ever(shop: Shop) -> None:
    found = reproduce(shop)

    lost = [moment.__name__ for moment in MOMENTS if moment is not while_claiming]
    assert found.seen["left"] == lost
    assert found.seen["charged_by"] == ["B", WORKER], "B got what was never claimed"
    assert found.is_harmed


def test_prevented_at_the_same_moments(shop: Shop) -> None:
    found = play(shop)

    assert found.seen["left"] == []
    assert found.seen["charged_by"] == ["B"] * 4 + [WORKER], "each once"
    assert not found.is_harmed
    assert violations(shop, is_every_commit_charged=True) == {}


@pytest.mark.parametrize("name", STEPS)
def test_prevented_after_every_statement_of_every_step(shop: Shop, name: str) -> None:
    statements, had_more = 0, True
    while had_more:
        shop.enqueue()
        lease = shop.claim_one(WORKER)
        had_more = kill_inside(shop, STEPS[name](shop.database.store, lease), statements)
        bring_on(shop, ["default"])
        assert shop.state(lease.job_id) is State.DONE, f"{statements} statements of {name}"
        statements += 1

    assert statements > 1
    assert shop.ledger() == ["B"] * statements
    assert violations(shop, is_every_commit_charged=True) == {}


def test_prevented_when_the_reconciler_is_killed_too(shop: Shop) -> None:
    """It leaves what it found; the next one finds it again."""
    statements, had_more = 0, True
    while had_more:
        shop.enqueue()
        lease = shop.claim_one(WORKER)
        shop.expire(lease)
        recovery = shop.database.store.reconcile(100, lambda _: 0.0)
        had_more = kill_inside(shop, recovery, statements)
        bring_on(shop, ["default"])
        assert shop.state(lease.job_id) is State.DONE, f"{statements} statements"
        statements += 1

    assert shop.ledger() == ["B"] * statements


def test_prevented_without_running_what_was_committed_again(shop: Shop) -> None:
    job_id = shop.enqueue()
    after_the_commit(shop, "default")
    bring_on(shop, ["default"])

    assert shop.state(job_id) is State.DONE
    assert shop.ledger() == [WORKER]
    assert [attempt.end for attempt in shop.attempts(job_id)] == [AttemptEnd.HEALED]


def test_prevented_when_a_worker_process_is_killed_inside_its_effect(site: Site) -> None:
    """And with jobs that it had leased ahead, which nobody had started."""
    jobs = [gated_inside.enqueue(str(site.folder)) for _ in range(3)]
    victim = site.start_worker("--concurrency", "1", "--prefetch", "2")
    wait_for(lambda: list(site.folder.glob("inside-*-1")), "a charge that is not committed")

    victim.send_signal(signal.SIGKILL)
    victim.wait()
    (site.folder / "go").touch()
    site.start_worker()
    site.wait_until_done(3)

    assert site.charged() == [job.id for job in jobs]

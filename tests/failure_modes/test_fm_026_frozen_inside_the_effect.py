"""FM_026: a worker frozen inside its effect keeps its job from being recovered.

The commit record is what rules out FM_001, and it has a price: while an attempt is inside its
effect, its lease row is locked and the reconciler leaves it alone. An attempt that is stopped
right there (SIGSTOP, a virtual machine that is moved, a host that lost its network) holds that
lock for as long as the server keeps its transaction, which by default is for ever.

So the connections of a worker tell the server to end a transaction whose client has been silent
for 0.8 of the lease (invariant I6).
"""

from __future__ import annotations

import signal

import pytest

from jobq import State, WorkerOptions
from jobq.failure_modes.fm_026_frozen_inside_the_effect import prevent, reproduce
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from tests.worker.charges import gated_inside
from tests.worker.conftest import Site, wait_for


def test_reproduces_a_job_that_nobody_can_recover(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop)

    assert not found.seen["recovered"]
    assert found.seen["passes"] > 10, "the reconciler skips the locked lease each time"
    assert found.seen["session"] == ["idle in transaction"], "the server waits with it"
    assert found.seen["state"] is State.LEASED
    assert found.seen["charged_by"] == ["A"], "only A itself could end it, by waking up"
    assert found.is_harmed


def test_prevented_by_the_server_ending_the_silent_transaction(postgres_shop: Shop) -> None:
    found = prevent(postgres_shop)

    assert found.seen["recovered"]
    assert found.seen["session"] == []
    assert found.seen["state"] is State.DONE, "B did it while A stood still"
    assert found.seen["woke_to"] is not None, "A is told that its transaction is gone"
    assert found.seen["charged_by"] == ["B"]
    assert not found.is_harmed
    assert violations(postgres_shop, is_every_commit_charged=True) == {}


@pytest.mark.parametrize("lease_s", [0.5, 60.0, 3600.0])
def test_prevented_before_the_lease_ends(lease_s: float) -> None:
    """A limit beyond the lease would be a longer lease under another name."""
    assert 0 < WorkerOptions(lease_s=lease_s).idle_in_transaction_s < lease_s


def test_prevented_when_a_worker_process_is_stopped(postgres_site: Site) -> None:
    """SIGSTOP inside the effect; another process does the job; SIGCONT."""
    site = postgres_site
    job = gated_inside.enqueue(str(site.folder))
    frozen = site.start_worker()
    wait_for((site.folder / f"inside-{job.id}-1").exists, "the charge of the first", site)
    frozen.send_signal(signal.SIGSTOP)

    (site.folder / "go").touch()
    other = site.start_worker()
    site.wait_until_done(1)
    assert site.charged() == [job.id], "by the other, while the first stands still"
    frozen.send_signal(signal.SIGCONT)

    wait_for(lambda: site.rows("refusals"), "the first to be refused", site)
    assert site.charged() == [job.id]
    assert job.status().attempts == 2
    for worker in (frozen, other):
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0

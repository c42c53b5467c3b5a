"""FM_014: leases go by the clock of whoever takes them, and clocks differ.

A virtual machine resumes with yesterday's time, NTP is blocked, a container host is an hour off.
A queue whose workers write `now + lease` and compare with their own `now` believes each of them:
a worker that is behind takes leases that have ended before they began, and its jobs run twice at
once; one that is ahead takes leases of an hour, so its jobs wait an hour when it dies, and as a
reconciler it takes everybody's live jobs away.

jobq has one clock, the database's (invariants I4 and I6). Workers measure only durations.
"""

from __future__ import annotations

import ast
import time
from datetime import datetime
from pathlib import Path

import pytest

import jobq
from jobq import State
from jobq.failure_modes.fm_014_clock_skew import (
    HOUR_S,
    clock_off_by,
    lease_left_s,
    play,
    reproduce,
    weaken,
)
from jobq.failure_modes.shop import LEASE_S, Shop
from tests.worker.charges import gated
from tests.worker.conftest import Site, wait_for

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
WALL_CLOCKS = {"now", "utcnow", "today", "time_ns"}


def test_reproduces_leases_that_end_too_early_and_too_late(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.seen["taken_from_behind"]
    assert found.seen["starts"] == 2, "A and B at once"
    assert found.seen["left_s"] > HOUR_S, "nobody can recover a dead worker's job for an hour"
    assert found.seen["taken_by_ahead"]
    assert found.is_harmed


def test_prevented_under_the_same_clocks(shop: Shop) -> None:
    found = play(shop)

    assert not found.seen["taken_from_behind"]
    assert found.seen["starts"] == 1
    assert LEASE_S / 2 < found.seen["left_s"] <= LEASE_S
    assert not found.seen["taken_by_ahead"]
    assert not found.is_harmed


@pytest.mark.parametrize("off_by_s", [-HOUR_S, HOUR_S])
def test_prevented_for_heartbeats(shop: Shop, off_by_s: float) -> None:
    job_id = shop.enqueue()
    lease = shop.claim_one("A")
    with clock_off_by(off_by_s):
        shop.heartbeat("A", lease)

    assert LEASE_S / 2 < lease_left_s(shop, job_id) <= LEASE_S


def test_reproduces_a_job_that_starts_an_hour_too_early(shop: Shop) -> None:
    shop.weaken(weaken)
    job_id = shop.enqueue(delay_s=HOUR_S / 2)
    with clock_off_by(HOUR_S):
        shop.promote()

    assert shop.state(job_id) is State.READY


def test_prevented_for_scheduled_jobs(shop: Shop) -> None:
    """Due by the database's clock, whoever promotes, and whoever enqueued."""
    scheduled = shop.enqueue(delay_s=HOUR_S / 2)
    with clock_off_by(HOUR_S):
        shop.promote()
        in_half_an_hour = shop.enqueue(delay_s=HOUR_S / 2)
    with clock_off_by(-HOUR_S):
        now = shop.enqueue()
    shop.promote()

    states = [shop.state(job_id) for job_id in (scheduled, in_half_an_hour, now)]
    assert states == [State.SCHEDULED, State.SCHEDULED, State.READY]


def test_prevented_as_no_module_of_jobq_asks_its_machine_for_the_time() -> None:
    """Monotonic clocks measure durations; the time of day comes from the database."""
    package = Path(jobq.__file__).parent
    asking = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        # The doctor compares the two clocks.
        if "failure_modes" not in path.parts and path.name != "doctor.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and _is_wall_clock(node)
    ]
    assert asking == []


def _is_wall_clock(node: ast.Attribute) -> bool:
    of_time = isinstance(node.value, ast.Name) and node.value.id == "time"
    return node.attr in WALL_CLOCKS or (of_time and node.attr == "time")


WORKER_LEASE_S = 4.0
"""Of the worker processes: long enough for their heartbeats on a busy machine."""


@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (Debian: apt install faketime)")
@pytest.mark.parametrize("off_by", ["-1h", "+1h"])
def test_prevented_for_a_worker_process_on_another_clock(postgres_site: Site, off_by: str) -> None:
    """A whole `jobq worker` is an hour off; another, which is right, is ready to take its job.

    Not on SQLite, whose clock is its process's: there all workers are on one machine.
    """
    site = postgres_site
    job = gated.enqueue(str(site.folder))
    lease = ("--lease", str(WORKER_LEASE_S))
    skewed = {"LD_PRELOAD": str(LIBRARY), "FAKETIME": off_by, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    site.start_worker(*lease, **skewed)
    wait_for((site.folder / f"started-{job.id}-1").exists, "the handler to start", site)
    says = datetime.fromisoformat(site.log()[:19])
    off_s = says.timestamp() - time.time()
    assert abs(off_s) == pytest.approx(HOUR_S, abs=60), "its log shows its clock"

    site.start_worker(*lease)
    wait_for(lambda: len(site.rows("workers")) == 2, "the other worker", site)
    first = job.status().lease_expires_at
    assert first is not None

    def is_extended_twice() -> bool:
        now = job.status().lease_expires_at
        return now is not None and (now - first).total_seconds() > WORKER_LEASE_S

    wait_for(is_extended_twice, "the lease to outlive its first end", site)
    (site.folder / "go").touch()
    site.wait_until_done(1)
    assert job.status().attempts == 1
    assert site.charged() == [job.id]

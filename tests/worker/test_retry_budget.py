"""A worker's retries are paid for: by failures and expired leases, and back by successes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest

from jobq import Budget, JobQueue, Retry, State
from tests.worker.conftest import Site, wait_for

BASE_S = 3600.0
RESERVE, SHARE = Budget().reserve, Budget().share
RETRY = Retry(base_s=BASE_S, cap_s=1e6)
JOBS = 300
SPREAD = 2 * RESERVE * (1 + math.log(JOBS / RESERVE))
"""Twice what is expected to be due within the first `BASE_S`; without a budget all are."""


@pytest.fixture
def app(site: Site) -> Iterator[JobQueue]:
    app = JobQueue(site.url)
    yield app
    app.close()


def test_jobs_that_fail_together_are_not_due_together(site: Site, app: JobQueue) -> None:
    @app.task(name="boom", retry=RETRY)
    async def boom() -> None:
        raise RuntimeError

    app.enqueue_many([boom.request()] * JOBS)
    with app.worker(poll_s=0.05):
        wait_for(lambda: site.counts()[State.SCHEDULED] == JOBS, "all to have failed", site)

    assert sum(delay_s <= BASE_S for delay_s in delays_s(site)) < SPREAD


def test_jobs_whose_leases_expire_together_are_not_due_together(site: Site, app: JobQueue) -> None:
    @app.task(name="lost", retry=RETRY)
    async def lost() -> None: ...

    app.enqueue_many([lost.request()] * JOBS)
    claim = app.database.store.claim(
        worker="dead", queues=["default"], tasks=["lost"], limit=JOBS, lease_s=0.0
    )
    assert len(app.database.run(claim)) == JOBS

    with app.worker(poll_s=0.05, reconcile_s=0.05):
        wait_for(lambda: site.counts()[State.SCHEDULED] == JOBS, "all to be rescued", site)

    assert sum(delay_s <= BASE_S for delay_s in delays_s(site)) < SPREAD


def test_successes_pay_the_debt_back(site: Site, app: JobQueue) -> None:
    fails = itertools.chain([True] * 4 * RESERVE, [False] * round(4 * RESERVE / SHARE))

    @app.task(name="sometimes", retry=RETRY)
    async def sometimes() -> None:
        if next(fails, True):
            raise RuntimeError

    def failed_after(jobs: int) -> int:
        return site.counts()[State.SCHEDULED] - jobs

    with app.worker(poll_s=0.05, concurrency=1):
        app.enqueue_many([sometimes.request()] * 4 * RESERVE)
        wait_for(lambda: failed_after(0) == 4 * RESERVE, "a debt", site)
        succeed = round(4 * RESERVE / SHARE)
        app.enqueue_many([sometimes.request()] * succeed)
        site.wait_until_done(succeed)
        app.enqueue_many([sometimes.request()] * RESERVE)
        wait_for(lambda: failed_after(4 * RESERVE) == RESERVE, "the last to fail", site)

    in_debt, paid = delays_s(site)[: 4 * RESERVE], delays_s(site)[4 * RESERVE :]
    assert max(in_debt) > BASE_S
    assert max(paid) <= BASE_S, "as if nothing had ever failed"


def delays_s(site: Site) -> list[float]:
    """From the end of each attempt to when its job is due again, by job."""
    ended = {row["job_id"]: row["ended_at"] for row in site.rows("attempts")}
    waiting = sorted(site.rows("scheduled"), key=lambda row: row["job_id"])
    return [(row["run_at"] - ended[row["job_id"]]).total_seconds() for row in waiting]

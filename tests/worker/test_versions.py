"""During a rolling deploy each worker runs what it can read, and leaves the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from jobq import JobFailed, JobQueue, Limit, State, Unique
from tests.worker.conftest import BOUND_S, Site, wait_for


def in_cents(version: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"order_id": arguments["order_id"], "cents": round(arguments["euros"] * 100)}


@pytest.fixture
def older(site: Site) -> Iterator[JobQueue]:
    app = JobQueue(site.url)

    @app.task(name="charge", limits=[Limit("charge", concurrency=5)])
    def charge(order_id: int, euros: float) -> str:
        return f"{euros} euros"

    yield app
    app.close()


@pytest.fixture
def newer(site: Site) -> Iterator[JobQueue]:
    app = JobQueue(site.url)

    @app.task(
        name="charge",
        version=2,
        upgrade=in_cents,
        max_attempts=1,
        limits=[Limit("charge", concurrency=5)],
    )
    def charge(order_id: int, cents: int) -> str:
        return f"{cents} cents"

    yield app
    app.close()


def test_the_new_version_runs_the_jobs_of_both(older: JobQueue, newer: JobQueue) -> None:
    old = older.tasks["charge"].enqueue(order_id=1, euros=2.5)
    new = newer.tasks["charge"].enqueue(order_id=2, cents=7)
    with newer.worker(poll_s=0.05):
        assert [old.result(BOUND_S), new.result(BOUND_S)] == ["250 cents", "7 cents"]
    assert (old.status().task, new.status().task) == ("charge", "charge@2")


def test_the_old_version_leaves_new_jobs_alone(
    site: Site, older: JobQueue, newer: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    new = newer.tasks["charge"].enqueue(order_id=2, cents=7)
    old = older.tasks["charge"].enqueue(order_id=1, euros=2.5)
    with older.worker(poll_s=0.05):
        assert old.result(BOUND_S) == "2.5 euros"
    assert new.status().state is State.THROTTLED
    assert new.status().attempts == 0
    with newer.worker(poll_s=0.05):
        assert new.result(BOUND_S) == "7 cents"


def test_arguments_that_cannot_be_upgraded_fail_their_job(newer: JobQueue, site: Site) -> None:
    oldest = JobQueue(site.url)

    @oldest.task(name="charge", max_attempts=1)
    def charge(order: int) -> None: ...

    job = charge.enqueue(order=1)
    with newer.worker(poll_s=0.05), pytest.raises(JobFailed, match="upgrade function failed"):
        job.result(BOUND_S)
    (dead,) = newer.dead.list()
    assert dead.task == "charge"
    oldest.close()


def test_a_key_is_the_same_for_both_versions(older: JobQueue, newer: JobQueue) -> None:
    unique = Unique(by=["order_id"])
    first = older.tasks["charge"].using(unique=unique).enqueue(order_id=1, euros=1.0)
    second = newer.tasks["charge"].using(unique=unique).enqueue(order_id=1, cents=5)
    assert (second.id, second.is_new) == (first.id, False)


def test_a_worker_says_which_jobs_it_leaves(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    new, old = JobQueue(site.url), JobQueue(site.url)

    def same(version: int, arguments: dict[str, Any]) -> dict[str, Any]:
        return arguments

    @new.task(name="plain", version=2, upgrade=same)
    def plain() -> None: ...

    @old.task(name="plain")
    def bare() -> None: ...

    plain.enqueue()
    with old.worker(poll_s=0.05):
        wait_for(lambda: "'plain@2'" in caplog.text, "the warning", site)
    new.close()
    old.close()

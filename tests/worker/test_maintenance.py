"""What a worker prunes beside its jobs: its own tasks' ended ones, a bounded batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from jobq import DatabaseUnavailable, JobNotFound, JobQueue, Retention, State
from jobq.database.base import Link
from jobq.failure_modes.shop import TASK, Shop
from jobq.protocol.retention import DAY_S, FOREVER, HOUR_S
from jobq.worker.maintenance import Pruner
from tests.shops import shop
from tests.worker.conftest import wait_for

__all__ = ["shop"]


@pytest.fixture
def app(shop: Shop) -> Iterator[JobQueue]:
    app = JobQueue(shop.url, keep=Retention(committed_s=2 * HOUR_S))
    yield app
    app.close()


def is_there(app: JobQueue, job_id: int) -> bool:
    try:
        app.status(job_id)
    except JobNotFound:
        return False
    return True


def test_a_worker_prunes_while_it_works(shop: Shop, app: JobQueue) -> None:
    @app.task(name="short", keep=Retention(committed_s=HOUR_S))
    def short() -> None: ...

    @app.task(name="usual")
    def usual() -> None: ...

    @app.task(name="kept", keep=FOREVER)
    def kept() -> None: ...

    other = shop.enqueue(task="of another app")
    shop.cancel(other)
    jobs = [task.enqueue().id for task in (short, usual, kept)]
    with app.worker(poll_s=0.02, prune_s=0.05):
        wait_for(
            lambda: all(app.status(job_id).state is State.DONE for job_id in jobs),
            "the jobs to be done",
        )
        shop.grow_old(*jobs, other, age_s=1.5 * HOUR_S)
        wait_for(lambda: not is_there(app, jobs[0]), "the one kept for an hour to be pruned")
        assert is_there(app, jobs[1])
        shop.grow_old(*jobs, other, age_s=400 * DAY_S)
        wait_for(lambda: not is_there(app, jobs[1]), "the one kept for two hours to be pruned")
        late = short.enqueue()
        wait_for(lambda: late.status().state is State.DONE, "work to go on")

    assert is_there(app, jobs[2]), "its task keeps it for ever"
    assert is_there(app, other), "no task of this worker's"


def test_a_worker_may_be_told_not_to_prune(shop: Shop) -> None:
    pruner = Pruner(shop.database.store, {}, None)
    assert not pruner.is_due


def test_batches_follow_each_other_to_the_end_and_begin_anew(shop: Shop) -> None:
    jobs = shop.enqueue_many(5)
    for job_id in jobs:
        shop.cancel(job_id)
    shop.grow_old(*jobs, age_s=2 * HOUR_S)
    shop.heartbeat("gone")
    past = "0" if shop.is_sqlite else "'2000-01-01'"
    shop.sql(f"UPDATE jobq.workers SET seen_at = {past}")
    pruner = Pruner(shop.database.store, {TASK: Retention(cancelled_s=HOUR_S)}, 60.0, batch=2)
    link = shop.database.link()

    left = []
    for _ in range(4):
        pruner.run(link)
        left.append(shop.sql("SELECT count(*) FROM jobq.jobs")[0][0])
    link.close()

    assert left == [3, 1, 0, 0]
    assert shop.sql("SELECT id FROM jobq.workers") == []
    assert not pruner.is_due, "the next walk is a while away"


def test_a_batch_that_failed_is_repeated(shop: Shop) -> None:
    jobs = shop.enqueue_many(3)
    for job_id in jobs:
        shop.cancel(job_id)
    shop.grow_old(*jobs, age_s=2 * HOUR_S)
    pruner = Pruner(shop.database.store, {TASK: Retention(cancelled_s=HOUR_S)}, 60.0, batch=2)
    link = shop.database.link()
    pruner.run(link)

    with pytest.raises(DatabaseUnavailable):
        pruner.run(cast(Link, _Away()))
    assert not pruner.is_due, "not at once"
    pruner.run(link)
    link.close()
    assert shop.sql("SELECT count(*) FROM jobq.jobs") == [(0,)]


class _Away:
    """A link to a database that does not answer."""

    def run(self, step: object) -> object:
        raise DatabaseUnavailable("away")

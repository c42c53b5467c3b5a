"""One row that the database refuses costs that row: a worker goes on with the others of its batch.

The row is spoiled as a torn one, or a constraint of the service's own on jobq's tables, would be:
the statement that has to write it fails, each time, whoever runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobq import JobQueue, NotMigrated, Retention, Retry, State
from jobq.failure_modes.fm_033_one_bad_row import (
    ROWS,
    due,
    expired,
    ready,
    refuse,
    refuse_deletion,
)
from jobq.failure_modes.shop import TASK, Shop
from jobq.protocol.retention import HOUR_S
from tests.shops import shop
from tests.worker.conftest import wait_for

__all__ = ["shop"]


@pytest.fixture
def app(shop: Shop) -> Iterator[JobQueue]:
    app = JobQueue(shop.url, schema=shop.schema, keep=Retention(committed_s=HOUR_S))
    app.task(name=TASK, retry=Retry(base_s=0.05, cap_s=0.1))(lambda: None)
    yield app
    app.close()


@pytest.mark.parametrize(
    ("stand", "table"),
    [(expired, "attempts"), (due, "ready"), (ready, "leases"), (ready, "commit_records")],
    ids=["recovered", "promoted", "claimed", "reported"],
)
@pytest.mark.parametrize("bad", [0, ROWS - 1])
def test_the_others_of_its_batch_are_done(
    shop: Shop, app: JobQueue, stand: Callable[[Shop], list[int]], table: str, bad: int
) -> None:
    job_ids = stand(shop)
    refuse(shop, table, job_ids[bad])
    others = [job_id for number, job_id in enumerate(job_ids) if number != bad]

    with app.worker(poll_s=0.02):
        wait_for(lambda: all(shop.state(one) is State.DONE for one in others), "the others")
        late = shop.enqueue()
        wait_for(lambda: shop.state(late) is State.DONE, "what came after them")
    assert shop.state(job_ids[bad]) is not State.DONE


def test_the_others_of_its_batch_are_pruned(shop: Shop, app: JobQueue) -> None:
    job_ids = shop.enqueue_many(ROWS)
    with app.worker(poll_s=0.02, prune_s=None):
        wait_for(lambda: all(shop.state(one) is State.DONE for one in job_ids), "the jobs")
    shop.grow_old(*job_ids, age_s=2 * HOUR_S)
    refuse_deletion(shop, job_ids[2])

    with app.worker(poll_s=0.02, prune_s=0.05):
        wait_for(lambda: jobs(shop) == [job_ids[2]], "the others to be pruned")
        late = shop.enqueue()
        wait_for(lambda: shop.state(late) is State.DONE, "work to go on")


def jobs(shop: Shop) -> list[Any]:
    return [job_id for (job_id,) in shop.sql("SELECT id FROM jobq.jobs")]


def test_a_row_that_was_put_right_is_done_as_well(
    shop: Shop, app: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobq.worker.apart.ASIDE_S", 0.2)
    bad = expired(shop)[0]
    put_right = refuse(shop, "attempts", bad)
    with app.worker(poll_s=0.02, lease_s=1.0):
        wait_for(lambda: shop.sql("SELECT count(*) FROM jobq.leases") == [(1,)], "the others")
        put_right()
        wait_for(lambda: shop.state(bad) is State.DONE, "the one that was put right")


def test_what_no_row_can_be_blamed_for_ends_the_worker(shop: Shop, app: JobQueue) -> None:
    shop.sql("DROP TABLE jobq.scheduled")
    with pytest.raises(NotMigrated):
        asyncio.run(app.run_worker(handle_signals=False, poll_s=0.02))

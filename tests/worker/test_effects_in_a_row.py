"""Effect jobs that one handler runs one after the other, on one connection."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection

from jobq import Job, JobQueue, State
from jobq.database.url import conninfo
from jobq.task import Task
from tests.worker.conftest import Site, wait_for

IN_TRANSACTION = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in%'
"""
CHARGE = "INSERT INTO ledger (job_id, charged_by) VALUES (%s, %s)"


@pytest.fixture
def site(postgres_site: Site) -> Site:
    return postgres_site


@pytest.fixture
def app(site: Site) -> JobQueue:
    return JobQueue(site.url)


def transactions_left_open(app: JobQueue) -> int:
    with psycopg.connect(conninfo(app.url)) as connection:
        ((number,),) = connection.execute(IN_TRANSACTION).fetchall()
        return int(number)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_effect_begun_for_a_job_that_cannot_be_run_is_not_left_open(
    site: Site, app: JobQueue, is_async: bool
) -> None:
    older = JobQueue(site.url)
    is_resting, has_rest = threading.Event(), threading.Event()

    @older.task(name="charge", max_attempts=1)
    def older_charge(cents: int, currency: str) -> None: ...

    def charge(db: Connection, job: Job, cents: int) -> None:
        db.execute(CHARGE, (job.id, "blocking"))

    async def charge_async(db: AsyncConnection, job: Job, cents: int) -> None:
        await db.execute(CHARGE, (job.id, "async"))

    task: Task[..., Any] = app.task(name="charge", max_attempts=1)(
        charge_async if is_async else charge
    )

    @app.task(name="rest")
    def rest() -> None:
        is_resting.set()
        has_rest.wait(90)

    good = [task.enqueue(cents=1), task.enqueue(cents=2)]
    odd = older_charge.enqueue(cents=3, currency="EUR")
    good += [task.enqueue(cents=4)]
    resting = rest.enqueue()
    with app.worker(poll_s=0.05, concurrency=1):
        wait_for(is_resting.is_set, "the last job to be run", site)
        wait_for(lambda: odd.status().state is State.DEAD, "the odd job's burial", site)
        # On an event loop a task of its own closes it.
        wait_for(lambda: transactions_left_open(app) == 0, "the effect to be closed", site)
        has_rest.set()
        wait_for(lambda: resting.status().state is State.DONE, "the end", site)
    assert [job.status().state for job in good] == [State.DONE] * 3
    assert site.charged() == [job.id for job in good]
    app.close()
    older.close()

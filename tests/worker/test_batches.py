"""A batch's handler is called once for many jobs, and each of them ends as if it were alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import wraps
from typing import Any

import pytest
from sqlalchemy import Connection, insert
from sqlalchemy.ext.asyncio import AsyncSession

from jobq import AttemptEnd, InvalidOption, InvalidTask, Job, JobQueue, Limit, State
from tests.worker.charges import ledger
from tests.worker.conftest import BOUND_S, Site, wait_for


@pytest.fixture
def app(site: Site) -> Iterator[JobQueue]:
    app = JobQueue(site.url)
    yield app
    app.close()


def charge_all(db: Connection, ids: Sequence[int]) -> None:
    db.execute(insert(ledger), [{"job_id": one, "charged_by": "a batch"} for one in ids])


def test_one_call_takes_what_waits(site: Site, app: JobQueue) -> None:
    calls: list[int] = []

    @app.batch_task(size=15, name="index")
    def index(db: Connection, ids: list[int]) -> None:
        calls.append(len(ids))
        charge_all(db, ids)

    handles = app.enqueue_many(index.request(n) for n in range(100))
    with app.worker(poll_s=0.05, concurrency=20):
        site.wait_until_done(100)
    assert site.charged() == list(range(100))
    assert sum(calls) == 100
    assert max(calls) == 15
    assert {handle.status().attempts for handle in handles} == {1}


def test_a_poisonous_job_does_not_sink_the_others(site: Site, app: JobQueue) -> None:
    @app.batch_task(size=40, name="index", max_attempts=1)
    def index(db: Connection, ids: list[int]) -> None:
        charge_all(db, ids)
        if 13 in ids:
            raise ValueError("thirteen")

    handles = app.enqueue_many(index.request(n) for n in range(40))
    with app.worker(poll_s=0.05, concurrency=40):
        wait_for(lambda: site.counts()[State.DONE] == 39, "the others to be done", site)
        wait_for(lambda: site.counts()[State.DEAD] == 1, "the one to be buried", site)
    assert site.charged() == [n for n in range(40) if n != 13]
    (attempt,) = app.attempts(handles[13].id)
    assert attempt.error is not None
    assert attempt.error.message == "thirteen"


def test_an_argument_that_cannot_be_read_fails_its_job_alone(site: Site, app: JobQueue) -> None:
    older = JobQueue(site.url)

    @older.batch_task(size=9, name="index")
    def words(items: list[str]) -> None: ...

    @app.batch_task(size=9, name="index", max_attempts=1)
    def index(items: list[int]) -> None: ...

    app.enqueue_many(
        [index.request(1), words.using(max_attempts=1).request("one"), index.request(2)]
    )
    with app.worker(poll_s=0.05):
        wait_for(lambda: site.counts()[State.DONE] == 2, "the others to be done", site)
        wait_for(lambda: site.counts()[State.DEAD] == 1, "the one to be buried", site)
    older.close()


def test_a_cancelled_job_is_left_out(site: Site, app: JobQueue) -> None:
    """It is claimed with the others, behind one that holds the only thread."""
    is_running, may_end = threading.Event(), threading.Event()

    @app.task(name="first")
    def first() -> None:
        is_running.set()
        may_end.wait(BOUND_S)

    @app.batch_task(size=10, name="index")
    def index(db: Connection, ids: list[int]) -> None:
        charge_all(db, ids)

    first.enqueue()
    with app.worker(poll_s=0.05, concurrency=1, prefetch=10):
        assert is_running.wait(BOUND_S)
        handles = app.enqueue_many(index.request(n) for n in range(5))
        wait_for(lambda: site.counts()[State.LEASED] == 6, "all to be claimed", site)
        assert handles[2].cancel()
        may_end.set()
        site.wait_until_done(5)
    assert site.charged() == [0, 1, 3, 4]


def test_as_many_wait_for_a_slow_batch_as_there_are_handlers(site: Site, app: JobQueue) -> None:
    """By their rate none would, and each job would be a batch of its own."""
    running, may_end, sizes = threading.Semaphore(0), threading.Event(), list[int]()

    @app.task(name="first")
    def first() -> None:
        running.release()
        may_end.wait(BOUND_S)

    @app.batch_task(size=10, name="index")
    def index(ids: list[int]) -> None:
        sizes.append(len(ids))

    app.enqueue_many([first.request()] * 4)
    with app.worker(poll_s=0.05, concurrency=4):
        for _ in range(4):
            assert running.acquire(timeout=BOUND_S)
        handles = app.enqueue_many(index.request(n) for n in range(4))
        wait_for(lambda: site.counts()[State.LEASED] == 8, "all to be claimed", site)
        may_end.set()
        for handle in handles:
            handle.wait(BOUND_S)
    assert sizes == [4]


def test_without_an_effect_each_is_recorded(site: Site, app: JobQueue) -> None:
    seen: list[int] = []

    @app.batch_task(size=8, name="tell", limits=[Limit("tell", concurrency=8)])
    async def tell(items: Sequence[int]) -> None:
        if len(items) > 1 and 5 in items:
            raise ConnectionError
        seen.extend(items)

    app.enqueue_many(tell.request(n) for n in range(20))
    with app.worker(poll_s=0.05, concurrency=20):
        site.wait_until_done(20)
    assert sorted(seen) == list(range(20))


def test_coroutines_with_a_session(postgres_site: Site) -> None:
    app = JobQueue(postgres_site.url)

    @app.batch_task(size=8, name="index", max_attempts=1)
    async def index(db: AsyncSession, ids: list[int]) -> None:
        await db.execute(insert(ledger), [{"job_id": n, "charged_by": "async"} for n in ids])
        if 3 in ids:
            raise ValueError

    app.enqueue_many(index.request(n) for n in range(20))
    with app.worker(poll_s=0.05, concurrency=20):
        postgres_site.wait_until_done(19)
    assert postgres_site.charged() == [n for n in range(20) if n != 3]
    app.close()


def test_a_batch_that_is_interrupted_goes_back_whole(site: Site, app: JobQueue) -> None:
    is_running, may_end = threading.Event(), threading.Event()

    @app.batch_task(size=10, name="index")
    def index(ids: list[int]) -> None:
        is_running.set()
        may_end.wait(BOUND_S)

    handles = app.enqueue_many(index.request(n) for n in range(6))
    with app.worker(poll_s=0.05, concurrency=6, grace_s=0):
        assert is_running.wait(BOUND_S)
    may_end.set()
    assert {handle.status().state for handle in handles} <= {State.SCHEDULED, State.READY}
    for handle in handles:
        ends = [attempt.end for attempt in app.attempts(handle.id)]
        assert ends in ([AttemptEnd.INTERRUPTED], [])


def test_a_coroutine_in_disguise_is_refused(site: Site, app: JobQueue) -> None:
    async def hidden(items: list[int]) -> None: ...

    @wraps(hidden)
    def disguised(items: list[int]) -> Any:
        return hidden(items)

    task = app.batch_task(size=3, name="odd", max_attempts=1)(disguised)
    job = task.enqueue(1)
    with app.worker(poll_s=0.05):
        wait_for(lambda: job.status().state is State.DEAD, "it to be buried", site)


def test_a_signature_that_cannot_be_served_is_refused(app: JobQueue) -> None:
    def with_job(job: Job, ids: list[int]) -> None: ...

    def single(ids: int) -> None: ...

    def two(ids: list[int], names: list[str]) -> None: ...

    def bare(ids: list) -> None: ...  # type: ignore[type-arg]

    register: Any = app.batch_task(size=5)
    for function in (with_job, single, two, bare):
        with pytest.raises(InvalidTask, match="one sequence with an item for each job"):
            register(function)
    with pytest.raises(InvalidOption, match="at least one job"):
        app.batch_task(size=0)

"""What a handler returns is kept with its commit record, and those who wait are given it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from jobq import (
    InvalidOption,
    InvalidResult,
    InvalidTask,
    Job,
    JobFailed,
    JobNotFound,
    JobQueue,
    Outcome,
    State,
)
from tests.worker.charges import ledger
from tests.worker.conftest import BOUND_S, Site, wait_for


@dataclass
class Receipt:
    order_id: int
    lines: tuple[str, ...]


@pytest.fixture
def app(site: Site) -> Iterator[JobQueue]:
    app = JobQueue(site.url)
    yield app
    app.close()


def test_a_result_comes_back_as_what_it_was(app: JobQueue) -> None:
    @app.task(name="plain")
    def plain(order_id: int) -> Receipt:
        return Receipt(order_id, ("a", "b"))

    @app.task(name="effect")
    def effect(db: Session, order_id: int) -> Receipt:
        db.execute(insert(ledger).values(job_id=order_id, charged_by="effect"))
        return Receipt(order_id, ())

    @app.task(name="coroutine")
    async def coroutine(db: AsyncSession, order_id: int) -> Receipt:
        await db.execute(insert(ledger).values(job_id=order_id, charged_by="coroutine"))
        return Receipt(order_id, ("c",))

    @app.task(name="explicit")
    def explicit(job: Job, order_id: int) -> Receipt | None:
        with job.commit(Connection) as db:
            db.execute(insert(ledger).values(job_id=order_id, charged_by="explicit"))
            job.set_result(Receipt(order_id, ("d",)))
        return None

    handles = [
        plain.enqueue(order_id=1),
        effect.enqueue(order_id=2),
        explicit.enqueue(order_id=4),
        coroutine.enqueue(order_id=3),
    ]
    with app.worker(poll_s=0.05):
        results = [handle.result(BOUND_S) for handle in handles]
    assert (
        results
        == [
            Receipt(1, ("a", "b")),
            Receipt(2, ()),
            Receipt(4, ("d",)),
            Receipt(3, ("c",)),
        ][: len(handles)]
    )
    assert handles[0].status().result == '{"order_id":1,"lines":["a","b"]}'


def test_results_of_a_group_go_to_their_own_jobs(app: JobQueue) -> None:
    @app.task(name="square")
    async def square(n: int) -> int | None:
        await asyncio.sleep(0)
        return None if n % 7 == 0 else n * n

    handles = app.enqueue_many(square.request(n) for n in range(50))
    with app.worker(poll_s=0.05, concurrency=20):
        results = [handle.result(BOUND_S) for handle in handles]
    assert results == [None if n % 7 == 0 else n * n for n in range(50)]


def test_a_handler_that_says_nothing_keeps_nothing(app: JobQueue) -> None:
    @app.task(name="silent")
    def silent():  # type: ignore[no-untyped-def]
        return object()

    @app.task(name="unkept", keep_result=False)
    def unkept() -> Any:
        return object()

    handles = [silent.enqueue(), unkept.enqueue()]
    with app.worker(poll_s=0.05):
        assert [handle.result(BOUND_S) for handle in handles] == [None, None]


def test_a_result_that_cannot_be_kept_fails_the_attempt_and_its_effect(
    site: Site, app: JobQueue
) -> None:
    @app.task(name="odd", max_attempts=1)
    def odd(db: Connection, job: Job) -> Any:
        db.execute(insert(ledger).values(job_id=job.id, charged_by="odd"))
        return object()

    job = odd.enqueue()
    with (
        app.worker(poll_s=0.05),
        pytest.raises(JobFailed, match="cannot be kept as JSON") as failed,
    ):
        job.result(BOUND_S)
    assert failed.value.outcome is Outcome.DEAD
    assert failed.value.error is not None
    assert failed.value.error.type == "jobq.InvalidResult"
    assert site.charged() == []


def test_a_result_after_the_commit_is_not_kept(
    app: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    problems: list[Exception] = []

    @app.task(name="late")
    def late(job: Job) -> int:
        with job.commit(Connection) as db:
            db.execute(insert(ledger).values(job_id=job.id, charged_by="late"))
        try:
            job.set_result(7)
        except InvalidTask as error:
            problems.append(error)
        return 7

    @app.task(name="mute")
    def mute(job: Job) -> None:
        job.set_result(7)

    job, failing = late.enqueue(), mute.using(max_attempts=1).enqueue()
    with app.worker(poll_s=0.05):
        assert job.result(BOUND_S) is None
        with pytest.raises(JobFailed, match="annotate what its handler returns"):
            failing.result(BOUND_S)
    assert "is committed, and its record with it" in str(problems[0])
    assert "committed before its handler returned a result" in caplog.text


def test_who_waits_is_told_of_every_end(app: JobQueue) -> None:
    may_end = threading.Event()

    @app.task(name="slow")
    def slow() -> int:
        may_end.wait(BOUND_S)
        return 1

    job, never = slow.enqueue(), slow.using(delay=3600).enqueue()
    with app.worker(poll_s=0.05):
        with pytest.raises(TimeoutError, match="has not ended within"):
            job.wait(0.05)
        may_end.set()
        assert job.wait(BOUND_S).state in (State.COMMITTED, State.DONE)
    never.cancel()
    assert never.wait(BOUND_S).state is State.CANCELLED
    with pytest.raises(JobFailed, match="is cancelled, and has no result"):
        never.result(BOUND_S)
    with pytest.raises(JobNotFound):
        type(job)(10**9, app).wait(BOUND_S)


async def test_waiting_with_asyncio(app: JobQueue) -> None:
    @app.task(name="double")
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    handles = await app.aenqueue_many(double.request(n) for n in range(30))
    async with app.worker(poll_s=0.05):
        results = await asyncio.gather(*(handle.aresult(BOUND_S) for handle in handles))
        status = await handles[0].await_(BOUND_S)
    with pytest.raises(TimeoutError):
        await (await double.using(delay=3600).aenqueue(n=1)).aresult(0.05)
    assert results == [2 * n for n in range(30)]
    assert status.state in (State.COMMITTED, State.DONE)


def test_a_thousand_who_wait_ask_together(app: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task(name="one")
    def one() -> int:
        return 1

    handles = app.enqueue_many(one.using(delay=3600).request() for _ in range(1000))
    asked: list[int] = []
    look = app.watcher._look
    has_asked_for_all = threading.Event()

    def count(job_ids: list[int]) -> None:
        asked.append(len(job_ids))
        look(job_ids)
        if len(job_ids) == len(handles):
            has_asked_for_all.set()

    monkeypatch.setattr(app.watcher, "_look", count)
    futures = [app.watcher.watch(handle.id) for handle in handles]
    assert has_asked_for_all.wait(BOUND_S)
    assert len(asked) < 100
    for future in futures:
        future.cancel()
    thread = app.watcher._thread
    if thread is not None:
        thread.join(BOUND_S)
    assert app.watcher._thread is None


def test_a_result_of_another_version_is_named(app: JobQueue) -> None:
    @app.task(name="versioned")
    def versioned() -> str:
        return "words"

    job = versioned.enqueue()
    with app.worker(poll_s=0.05):
        assert job.result(BOUND_S) == "words"
    newer = JobQueue(app.url)

    @newer.task(name="versioned")
    def counted() -> int:
        return 1

    with pytest.raises(InvalidResult, match="does not fit"):
        type(job)(job.id, newer).result(BOUND_S)
    newer.close()
    without = JobQueue(app.url)
    assert type(job)(job.id, without).result(BOUND_S) == "words"
    without.close()


def test_progress_is_seen_while_the_handler_runs(site: Site, app: JobQueue) -> None:
    may_end = threading.Event()

    @app.task(name="long")
    def long(job: Job) -> None:
        job.progress(0.25, "a quarter")
        job.progress(0.5, "half")
        may_end.wait(BOUND_S)

    job = long.enqueue()
    assert job.progress() is None
    with app.worker(poll_s=0.05, lease_s=1.0):

        def told() -> bool:
            progress = job.progress()
            return progress is not None and progress.note == "half"

        wait_for(told, "the progress to be written", site)
        progress = job.progress()
        assert progress is not None
        assert (progress.fraction, progress.attempt) == (0.5, 1)
        may_end.set()
        job.wait(BOUND_S)
    assert job.progress() == progress


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_progress_is_a_fraction(fraction: float) -> None:
    job: Any = Job.__new__(Job)
    with pytest.raises(InvalidOption, match="from 0 to 1"):
        job.progress(fraction)
    with pytest.raises(InvalidOption, match="at most"):
        job.progress(None, "x" * 1001)


def test_an_effect_on_a_drivers_connection_keeps_its_result(
    postgres_site: Site,
) -> None:
    app = JobQueue(postgres_site.url)

    @app.task(name="raw")
    def raw(db: psycopg.Connection[Any], n: int) -> int:
        db.execute("INSERT INTO ledger (job_id, charged_by) VALUES (%s, 'raw')", [n])
        return n

    handles = app.enqueue_many(raw.request(n) for n in range(40))
    with app.worker(poll_s=0.05, concurrency=2):
        assert [handle.result(BOUND_S) for handle in handles] == list(range(40))
    app.close()
    assert postgres_site.charged() == list(range(40))

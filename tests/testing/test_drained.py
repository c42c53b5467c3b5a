"""Running what is due, in the test's own process."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from jobq import AttemptEnd, InvalidTask, Job, JobQueue, Limit, Snooze, State
from jobq.testing import adrain, arun_one, drain, enqueued, run_one
from tests.testing.conftest import Books, ledger


def test_due_jobs_run_with_what_they_enqueue_and_nothing_else(app: JobQueue, books: Books) -> None:
    @app.task
    def charge(db: Session, job: Job, order_id: int) -> None:
        db.execute(insert(ledger).values(order_id=order_id))
        if order_id < 3:
            charge.enqueue_in(db, order_id=order_id + 1)

    charge.enqueue(order_id=1)
    charge.using(delay=60).enqueue(order_id=9)

    ran = drain(app)

    assert [(one.state, one.attempts) for one in ran] == [(State.DONE, 1)] * 3
    assert books.charged() == [1, 2, 3]
    assert [job.state for job in enqueued(app)] == [State.SCHEDULED]
    assert drain(app) == []


def test_one_job_runs_the_most_urgent_first(app: JobQueue) -> None:
    seen: list[int] = []
    note = app.task(name="note")(lambda number: seen.append(number))
    note.enqueue(number=1)
    note.using(priority=-1).enqueue(number=2)

    first = run_one(app)

    assert first is not None
    assert (first.state, seen) == (State.DONE, [2])
    assert run_one(app) is not None
    assert run_one(app) is None


def test_a_handler_that_fails_fails_the_test_with_its_own_error(
    app: JobQueue, books: Books
) -> None:
    @app.task
    def charge(db: Session) -> None:
        db.execute(insert(ledger).values(order_id=1))
        raise ValueError("no money")

    job = charge.enqueue()

    with pytest.raises(ValueError, match="no money") as raised:
        drain(app)

    assert raised.traceback[-1].name == "charge"
    assert job.status().state is State.SCHEDULED, "it was reported nevertheless"
    assert books.charged() == []


def test_failures_can_be_what_is_tested(app: JobQueue) -> None:
    @app.task(max_attempts=1)
    def charge() -> None:
        raise ValueError("no money")

    @app.task
    def leave() -> None:
        raise SystemExit(3)

    charge.enqueue()
    left = leave.enqueue()

    assert [one.state for one in drain(app, raises=False)] == [State.DEAD, State.SCHEDULED]
    ((error),) = [attempt.error for attempt in app.attempts(left.id)]
    assert error is not None
    assert error.type == "SystemExit"


def test_what_ends_a_test_is_no_failure_of_the_handler(app: JobQueue) -> None:
    @app.task
    def interrupted() -> None:
        raise KeyboardInterrupt

    interrupted.enqueue()
    with pytest.raises(KeyboardInterrupt):
        drain(app, raises=False)


def test_a_snoozed_job_is_left_for_later(app: JobQueue) -> None:
    @app.task
    def collect() -> None:
        raise Snooze(60)

    job = collect.enqueue()

    assert [(one.state, one.attempts) for one in drain(app)] == [(State.SCHEDULED, 0)]
    assert [attempt.end for attempt in app.attempts(job.id)] == [AttemptEnd.SNOOZED]


def test_only_the_queues_that_are_named_are_served(app: JobQueue) -> None:
    note = app.task(name="note")(lambda: None)
    limited = app.task(name="limited", limits=[Limit("bank", concurrency=1)])(lambda: None)
    for queue in ("mail", "billing"):
        note.using(queue=queue).enqueue()
        limited.using(queue=queue).enqueue()

    assert {one.queue for one in drain(app, queues=["mail"])} == {"mail"}
    assert [job.queue for job in enqueued(app)] == ["billing", "billing"]


def test_limits_hold(app: JobQueue) -> None:
    @app.task(limits=[Limit("bank", rate=2, per_s=3600)])
    def charge() -> None: ...

    app.enqueue_many([charge.request()] * 3)

    assert len(drain(app)) == 2
    assert [job.state for job in enqueued(app)] == [State.THROTTLED]


def test_jobs_without_end_are_told(app: JobQueue) -> None:
    @app.task(name="again")
    def again(db: Session) -> None:
        again.enqueue_in(db)

    again.enqueue()

    with pytest.raises(AssertionError, match=r"3 attempts were run .* 'again'"):
        drain(app, at_most=3)
    assert [job.state for job in enqueued(app)] == [State.READY], "it was given back"


def test_a_coroutine_runs_on_a_loop_of_its_own(app: JobQueue, books: Books) -> None:
    @app.task
    async def charge(db: AsyncSession, order_id: int) -> None:
        await db.execute(insert(ledger).values(order_id=order_id))

    charge.enqueue(order_id=1)
    charge.enqueue(order_id=2)

    assert [one.state for one in drain(app)] == [State.DONE] * 2
    assert books.charged() == [1, 2]


async def test_on_an_event_loop_coroutines_run_there_and_the_rest_in_threads(
    app: JobQueue, books: Books
) -> None:
    loops: list[object] = []
    threads: list[object] = []

    @app.task
    async def charge(db: AsyncSession, order_id: int) -> None:
        loops.append(asyncio.get_running_loop())
        await db.execute(insert(ledger).values(order_id=order_id))

    @app.task
    def note() -> None:
        threads.append(threading.current_thread())

    charge.enqueue(order_id=1)
    note.enqueue()
    charge.using(priority=1).enqueue(order_id=2)

    assert len(await adrain(app)) == 3
    assert loops == [asyncio.get_running_loop()] * 2
    assert threads != [threading.current_thread()]
    assert books.charged() == [1, 2]
    assert await arun_one(app) is None
    charge.enqueue(order_id=3)
    assert [one.state for one in drain(app)] == [State.DONE], "blocks the loop, and works"
    await app.aclose()


async def test_a_cancelled_test_is_cancelled(app: JobQueue) -> None:
    has_begun = asyncio.Event()

    @app.task
    async def wait() -> None:
        has_begun.set()
        await asyncio.Event().wait()

    wait.enqueue()
    draining = asyncio.create_task(adrain(app, raises=False))
    async with asyncio.timeout(30):
        await has_begun.wait()
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    await app.aclose()


def test_an_app_without_tasks_is_told(sqlite_url: str) -> None:
    app = JobQueue(sqlite_url)
    with pytest.raises(InvalidTask, match="no tasks"):
        drain(app)
    app.close()

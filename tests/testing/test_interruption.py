"""A job interrupted at each cut, with every kind of handler: its effect is there once."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from jobq import AttemptEnd, InvalidTask, Job, JobQueue, Limit, Snooze, State, Task, Unique
from jobq.testing import Interruption, WorkerKilled, ainterrupt, enqueued, interrupt
from tests.contract.hands import ASYNC, Hand, Kind, on_every_kind
from tests.testing.conftest import Books, ledger

RUNS_INSIDE = {  # how often a handler runs that is inside the boundary from the start
    Interruption.BEFORE_EFFECT: 1,
    Interruption.INSIDE_EFFECT: 2,
    Interruption.AFTER_COMMIT: 1,
    Interruption.OVERTAKEN: 1,
}
RUNS_OPENING_LATE = {
    Interruption.BEFORE_EFFECT: 2,
    Interruption.INSIDE_EFFECT: 2,
    Interruption.AFTER_COMMIT: 1,
    Interruption.OVERTAKEN: 2,
}
ENDS = {
    Interruption.BEFORE_EFFECT: AttemptEnd.EXPIRED,
    Interruption.INSIDE_EFFECT: AttemptEnd.EXPIRED,
    Interruption.AFTER_COMMIT: AttemptEnd.HEALED,
    Interruption.OVERTAKEN: AttemptEnd.EXPIRED,
}


def insert_into(db: Any, order_id: int) -> Coroutine[Any, Any, None]:
    return Hand(db).execute(f"INSERT INTO ledger VALUES ({order_id})")


def at_once(never_waits: Coroutine[Any, Any, None]) -> None:
    with pytest.raises(StopIteration):
        never_waits.send(None)


def charging_inside(app: JobQueue, kind: Kind) -> Task[..., Any]:
    """A handler with the session or connection as its parameter."""

    async def charge_async(db: Any, order_id: int) -> None:
        await insert_into(db, order_id)

    def charge_blocking(db: Any, order_id: int) -> None:
        at_once(insert_into(db, order_id))

    handler = charge_async if issubclass(kind, ASYNC) else charge_blocking
    handler.__annotations__ = {"db": kind, "order_id": int}
    return app.task(name="charge")(handler)


def charging_late(app: JobQueue, kind: Kind) -> Task[..., Any]:
    """A handler that opens the boundary itself."""

    async def charge_async(job: Job, order_id: int) -> None:
        async with job.commit(kind) as db:
            await insert_into(db, order_id)

    def charge_blocking(job: Job, order_id: int) -> None:
        with job.commit(kind) as db:
            at_once(insert_into(db, order_id))

    handler = charge_async if issubclass(kind, ASYNC) else charge_blocking
    return app.task(name="charge late")(handler)


@on_every_kind
def test_every_kind_of_effect_is_there_once_after_each(
    app: JobQueue, books: Books, kind: Kind
) -> None:
    order_id = 0
    for task, runs in (
        (charging_inside(app, kind), RUNS_INSIDE),
        (charging_late(app, kind), RUNS_OPENING_LATE),
    ):
        for at in Interruption:
            order_id += 1

            found = interrupt(app, task.request(order_id=order_id), at)

            assert found.status.state is State.DONE, at
            assert found.handler_runs == runs[at], at
            assert [attempt.end for attempt in found.attempts] == [ENDS[at]], at
            assert found.was_refused is (at is Interruption.OVERTAKEN), at
            assert books.charged() == list(range(1, order_id + 1)), at


async def test_on_an_event_loop(app: JobQueue, books: Books) -> None:
    @app.task
    async def charge(job: Job, order_id: int) -> None:
        async with job.commit() as db:
            await db.execute(insert(ledger).values(order_id=order_id))

    @app.task
    async def charge_inside(db: AsyncSession, order_id: int) -> None:
        await db.execute(insert(ledger).values(order_id=order_id))

    @app.task
    async def charge_blocking(job: Job, order_id: int) -> None:
        with job.commit() as db:  # it blocks the loop, and is the handler's business
            db.execute(insert(ledger).values(order_id=order_id))

    @app.task
    def charge_in_thread(db: Session, order_id: int) -> None:
        db.execute(insert(ledger).values(order_id=order_id))

    order_id = 0
    for task in (charge, charge_inside, charge_blocking, charge_in_thread):
        for at in Interruption:
            order_id += 1
            found = await ainterrupt(app, task.request(order_id=order_id), at)
            assert found.status.state is State.DONE, at

    assert books.charged() == list(range(1, order_id + 1))
    await app.aclose()


def test_an_effect_outside_of_the_boundary_is_shown_to_happen_twice(
    app: JobQueue, books: Books
) -> None:
    @app.task
    def charge(job: Job, order_id: int) -> None:
        with books.engine.begin() as connection:
            connection.execute(insert(ledger).values(order_id=order_id))
        with job.commit():
            pass

    for number, at in enumerate(Interruption):
        interrupt(app, charge.request(order_id=number), at)

    assert books.charged() == [0, 0, 1, 1, 2, 3, 3]


def test_without_an_effect_in_the_database(app: JobQueue) -> None:
    """Its record and its end are one transaction: killed after it, nothing is left to do."""

    @app.task
    def remind() -> None: ...

    @app.task
    def look(job: Job) -> None: ...

    runs = {
        task.name: [interrupt(app, task.request(), at).handler_runs for at in Interruption]
        for task in (remind, look)
    }

    assert runs == {remind.name: [1, 2, 1, 2], look.name: [2, 2, 1, 2]}


@pytest.mark.parametrize(
    ("policy", "end"), [("at_most_once", State.DEAD), ("ask", State.AMBIGUOUS)]
)
def test_policies_for_outside_effects(app: JobQueue, policy: Any, end: State) -> None:
    calls: list[str] = []

    @app.task(outside_effects=policy)
    def remind() -> None:
        calls.append("called")

    found = {at: interrupt(app, remind.request(), at) for at in Interruption}

    assert {at: one.status.state for at, one in found.items()} == {
        Interruption.BEFORE_EFFECT: end,
        Interruption.INSIDE_EFFECT: end,
        Interruption.AFTER_COMMIT: State.DONE,
        Interruption.OVERTAKEN: end,
    }
    assert len(calls) == 3
    assert found[Interruption.OVERTAKEN].was_refused


def test_a_step_is_not_run_again(app: JobQueue) -> None:
    calls: list[str] = []

    @app.task
    def settle(job: Job) -> None:
        job.step("pay", calls.append, "paid")
        with job.commit():
            pass

    for at in Interruption:
        interrupt(app, settle.request(), at)

    assert calls == ["paid"] * len(Interruption)


def test_the_last_attempt_is_not_repeated(app: JobQueue) -> None:
    @app.task(max_attempts=1)
    def charge(db: Session) -> None: ...

    assert interrupt(app, charge.request(), Interruption.INSIDE_EFFECT).status.state is State.DEAD


def test_a_handler_that_swallows_the_kill_changes_nothing(app: JobQueue, books: Books) -> None:
    calls: list[int] = []

    @app.task
    def charge(job: Job, order_id: int) -> None:
        for _ in range(2):
            try:
                with job.commit() as db:
                    db.execute(insert(ledger).values(order_id=order_id))
            except WorkerKilled:
                with pytest.raises(WorkerKilled):
                    job.step("tell", calls.append, order_id)
            else:
                return

    for number, at in enumerate(Interruption):
        assert interrupt(app, charge.request(order_id=number), at).status.state is State.DONE

    assert books.charged() == [0, 1, 2, 3]
    assert calls == []


def test_a_handler_that_fails_fails_the_test(app: JobQueue) -> None:
    @app.task
    def charge(job: Job) -> None:
        raise ValueError("no money")

    @app.task
    def charge_again(job: Job) -> None:
        with job.commit():
            if job.attempt > 1:
                raise ValueError("no money")

    for at in Interruption:
        with pytest.raises(ValueError, match="no money"):
            interrupt(app, charge.request(), at)
        if at is not Interruption.AFTER_COMMIT:  # then there is no second attempt
            with pytest.raises(ValueError, match="no money"):
                interrupt(app, charge_again.request(), at)


def test_a_snoozed_job_is_interrupted_when_it_comes_to_it(app: JobQueue) -> None:
    @app.task
    def collect(job: Job, at: str) -> None:
        for _ in snoozes[at]:
            raise Snooze(60)
        with job.commit():
            pass

    snoozes = {at.value: iter(range(2)) for at in Interruption}
    for at in Interruption:
        found = interrupt(app, collect.request(at=at.value), at)

        assert found.status.state is State.DONE, at
        assert [one.end for one in found.attempts] == [AttemptEnd.SNOOZED] * 2 + [ENDS[at]]


def test_a_job_that_only_snoozes_is_told(app: JobQueue) -> None:
    @app.task
    def collect() -> None:
        raise Snooze(60)

    with pytest.raises(AssertionError, match="snoozed"):
        interrupt(app, collect.request(), Interruption.INSIDE_EFFECT)


def test_it_is_a_new_job_that_is_due_and_others_are_left_alone(app: JobQueue) -> None:
    @app.task(limits=[Limit("bank", rate=1, per_s=3600)], unique=Unique(until="pruned"))
    def charge(db: Session) -> None: ...

    other = app.task(name="other")(lambda: None)
    tasks = (charge, other)
    waiting = [task.enqueue() for task in tasks]

    requests = [task.using(delay=3600).request() for task in tasks]
    found = [interrupt(app, request, at) for request in requests for at in Interruption]

    assert {one.status.state for one in found} == {State.DONE}
    assert len({one.job.id for one in found}) == len(found)
    assert [job.id for job in enqueued(app)] == [job.id for job in waiting]
    assert [job.status().attempts for job in waiting] == [0, 0]


def test_a_job_of_another_app_is_refused(app: JobQueue) -> None:
    other = JobQueue(app.url)
    app.task(name="known")(lambda: None)
    task = other.task(name="unknown")(lambda: None)

    with pytest.raises(InvalidTask, match="unknown"):
        interrupt(app, task.request(), Interruption.INSIDE_EFFECT)

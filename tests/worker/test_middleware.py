"""What a service adds around its jobs, on the way in and around each attempt."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import Connection, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from jobq import (
    AttemptOutcome,
    AttemptResult,
    EffectEvent,
    InvalidHeaders,
    InvalidOption,
    Job,
    JobQueue,
    JobRequest,
    Middleware,
    Retry,
    Snooze,
)
from jobq.middleware import MAX_HEADERS_BYTES
from jobq.protocol.values import Recovered, RefusedReport
from tests.worker import cpu
from tests.worker.charges import ledger
from tests.worker.conftest import BOUND_S, Site

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


class Tenants(Middleware):
    def enqueue(self, request: JobRequest, headers: dict[str, str]) -> None:
        headers["tenant"] = tenant.get()

    @contextmanager
    def attempt(self, job: Job) -> Iterator[None]:
        token = tenant.set(job.headers["tenant"])
        try:
            yield
        finally:
            tenant.reset(token)


class Recorder(Middleware):
    """What it is told, in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.changed = threading.Condition()

    def _tell(self, *what: Any) -> None:
        with self.changed:
            self.told.append(what)
            self.changed.notify_all()

    def wait_for(self, kind: str, number: int = 1) -> list[Any]:
        def found() -> list[Any]:
            return [told[1:] for told in self.told if told[0] == kind]

        with self.changed:
            assert self.changed.wait_for(lambda: len(found()) >= number, BOUND_S), self.told
            return found()

    @contextmanager
    def attempt(self, job: Job) -> Iterator[None]:
        self._tell("begun", job.id, job.attempt)
        try:
            yield
        except BaseException as error:
            self._tell("left", type(error).__name__, job.is_committed)
            raise
        self._tell("left", "", job.is_committed)

    @contextmanager
    def batch(self, jobs: Sequence[Job]) -> Iterator[None]:
        self._tell("batch", [job.id for job in jobs])
        yield

    def attempt_ended(self, job: Job, result: AttemptResult) -> None:
        self._tell("ended", job.id, result)

    def refused(self, report: RefusedReport) -> None:
        self._tell("refused", report.lease.job_id, report.reason)

    def recovered(self, recovered: Recovered) -> None:
        self._tell("recovered", recovered)


@pytest.fixture
def app(site: Site) -> Iterator[JobQueue]:
    app = JobQueue(site.url)
    yield app
    app.close()


@pytest.fixture
def recorder(app: JobQueue) -> Recorder:
    recorder = Recorder()
    app.use(recorder)
    return recorder


def test_headers_come_along_on_every_way_in(site: Site, app: JobQueue) -> None:
    app.use(Tenants())

    @app.task
    def who() -> str:
        return tenant.get()

    @app.task
    async def who_async() -> str:
        return tenant.get()

    tenant.set("acme")
    jobs = [who.enqueue(), who_async.enqueue()]
    jobs += app.enqueue_many(who.request() for _ in range(5_000))[:1]
    with site.engine.begin() as connection:
        jobs.append(who.using(delay=0.01).enqueue_in(connection))
    tenant.set("nobody")
    with app.worker(poll_s=0.05):
        assert [job.result(BOUND_S) for job in jobs] == ["acme"] * len(jobs)


def test_it_surrounds_the_boundary_and_learns_how_each_attempt_ended(
    app: JobQueue, recorder: Recorder
) -> None:
    @app.task(max_attempts=2, retry=Retry(base_s=0.01))
    def charge(db: Session, job: Job) -> None:
        db.execute(insert(ledger).values(job_id=job.id, charged_by="it"))
        if job.attempt == 1:
            raise ValueError("not yet")

    job = charge.enqueue()
    with app.worker(poll_s=0.05):
        job.wait(BOUND_S)
        ended = recorder.wait_for("ended", 2)

    assert recorder.wait_for("left", 2) == [("ValueError", False), ("", True)]
    (_, failed), (_, committed) = ended
    assert (failed.outcome, failed.error.message) == (AttemptOutcome.FAILED, "not yet")
    assert failed.retry_delay_s is not None
    assert not failed.is_dead
    assert committed.outcome is AttemptOutcome.COMMITTED
    assert committed.took_s > 0


def test_the_last_failure_is_told_as_such_and_a_snooze_is_none(
    app: JobQueue, recorder: Recorder
) -> None:
    @app.task(max_attempts=1)
    async def fail() -> None:
        raise ValueError("never")

    @app.task
    async def snooze() -> None:
        raise Snooze(3600)

    with app.worker(poll_s=0.05):
        dead, snoozed = fail.enqueue(), snooze.enqueue()
        results = dict(recorder.wait_for("ended", 2))

    assert results[dead.id].is_dead
    assert results[dead.id].retry_delay_s is None
    assert results[snoozed.id].outcome is AttemptOutcome.SNOOZED


def test_an_error_of_its_own_ends_the_attempt_before_the_handler(
    app: JobQueue, recorder: Recorder
) -> None:
    class Guard(Middleware):
        @contextmanager
        def attempt(self, job: Job) -> Iterator[None]:
            raise PermissionError("no such tenant")
            yield

    app.use(Guard())
    is_called = threading.Event()

    @app.task(max_attempts=1)
    def handle() -> None:
        is_called.set()

    job = handle.enqueue()
    with app.worker(poll_s=0.05):
        ((_, result),) = recorder.wait_for("ended")
        job.wait(BOUND_S)
    assert result.error.type == "PermissionError"
    assert not is_called.is_set()


def test_an_error_while_being_told_costs_nobody_anything(
    app: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Middleware):
        def attempt_ended(self, job: Job, result: AttemptResult) -> None:
            raise RuntimeError("the metrics server is away")

    recorder = Recorder()
    app.use(Broken(), recorder)

    @app.task
    def handle() -> int:
        return 1

    with app.worker(poll_s=0.05):
        assert handle.enqueue().result(BOUND_S) == 1
        recorder.wait_for("ended")
    assert "the metrics server is away" in caplog.text


def test_a_batch_is_surrounded_once_and_each_of_its_jobs_is_told_of(
    app: JobQueue, recorder: Recorder
) -> None:
    @app.batch_task(size=10)
    def sum_up(db: Connection, numbers: list[int]) -> None:
        for _ in numbers:
            db.execute(insert(ledger).values(job_id=sum(numbers), charged_by="batch"))

    jobs = app.enqueue_many(sum_up.request(number) for number in (1, 2, 4))
    with app.worker(poll_s=0.05, concurrency=10):
        for job in jobs:
            job.wait(BOUND_S)
        ended = recorder.wait_for("ended", 3)
    assert [sorted(ids) for (ids,) in recorder.wait_for("batch")] == [[job.id for job in jobs]]
    assert {result.outcome for _, result in ended} == {AttemptOutcome.COMMITTED}


def test_a_zombie_and_what_was_recovered_are_told(site: Site, app: JobQueue) -> None:
    recorder = Recorder()
    app.use(recorder)
    is_held, may_go_on = threading.Event(), threading.Event()

    @app.task
    def hold(job: Job) -> None:
        if job.attempt == 1:
            is_held.set()
            may_go_on.wait(BOUND_S)

    job = hold.enqueue()
    with app.worker(poll_s=0.05, reconcile_s=0.05):
        assert is_held.wait(BOUND_S)
        # It is thrown out of its lease, as if its process had been frozen.
        past = "1" if site.engine.dialect.name == "sqlite" else "'2000-01-01'"
        table = "jobq_leases" if site.engine.dialect.name == "sqlite" else "jobq.leases"
        site.sql(f"UPDATE {table} SET lease_expires_at = {past}")
        ((recovered,),) = recorder.wait_for("recovered")
        may_go_on.set()
        job.wait(BOUND_S)
        recorder.wait_for("refused")
    assert recovered.retried == (job.id,)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"size": "x" * MAX_HEADERS_BYTES}, "more than 8192"),
        ({"number": 7}, "are text"),
        ({"nul": "\0"}, "without NUL"),
        ({"half": "\ud800"}, "not text"),
    ],
)
def test_headers_that_cannot_be_stored(app: JobQueue, headers: Any, told: str) -> None:
    class Adds(Middleware):
        def enqueue(self, request: JobRequest, its: dict[str, str]) -> None:
            its.update(headers)

    app.use(Adds())

    @app.task
    def handle() -> None: ...

    with pytest.raises(InvalidHeaders, match=told):
        handle.enqueue()
    assert sum(app.database.run(app.database.store.counts()).values()) == 0


def test_what_is_no_middleware_is_refused(app: JobQueue) -> None:
    with pytest.raises(InvalidOption, match="derive its class"):
        app.use(Tenants)  # type: ignore[arg-type]


def test_a_child_process_is_surrounded_there_and_told_of_here(site: Site) -> None:
    recorder = Recorder()
    with cpu.app.on(site.url):
        cpu.app.use(recorder)
        try:
            job = cpu.marked.enqueue()
            with cpu.app.worker(poll_s=0.05):
                assert job.result(BOUND_S) == "from the header"
                ((_, result),) = recorder.wait_for("ended")
        finally:
            cpu.app._middleware.remove(recorder)
    assert result.outcome is AttemptOutcome.COMMITTED
    assert not [told for told in recorder.told if told[0] == "begun"]


class Effects(Recorder):
    def effect(self, job: Job, event: EffectEvent) -> None:
        self._tell("effect", job.id, event.value)

    def handled(self, job: Job, result: AttemptResult) -> None:
        self._tell("handled", job.id, result)


def test_what_happens_at_the_boundary_is_told_inside_of_the_attempt(app: JobQueue) -> None:
    effects = Effects()
    app.use(effects)

    @app.task
    def charge(db: Session, job: Job) -> None:
        db.execute(insert(ledger).values(job_id=job.id, charged_by="it"))

    @app.task
    async def charge_late(job: Job) -> None:
        async with job.commit() as db:
            await db.execute(insert(ledger).values(job_id=job.id, charged_by="it"))

    @app.task
    async def charge_async(db: AsyncSession, job: Job) -> None:
        await db.execute(insert(ledger).values(job_id=job.id, charged_by="it"))

    for task in (charge, charge_late, charge_async):
        job = task.enqueue()
        with app.worker(poll_s=0.05):
            job.wait(BOUND_S)
            effects.wait_for("ended")
        assert [told[0] for told in effects.told] == [
            *("begun", "effect", "effect", "left", "handled", "ended")
        ]
        assert [told[2] for told in effects.told if told[0] == "effect"] == ["begun", "committed"]
        effects.told.clear()


def test_a_refusal_is_told_once_even_if_the_handler_swallows_it(app: JobQueue) -> None:
    effects = Effects()
    app.use(effects)

    @app.task
    def charge(job: Job) -> None:
        app.cancel(job.id)
        for _ in range(2):
            with suppress(BaseException), job.commit() as db:
                db.execute(insert(ledger).values(job_id=job.id, charged_by="nobody"))

    job = charge.enqueue()
    with app.worker(poll_s=0.05):
        ((_, result),) = effects.wait_for("handled")
        ((job_id, event),) = effects.wait_for("effect")
    assert (job_id, event) == (job.id, "refused")
    assert (result.outcome, result.reason) == (AttemptOutcome.REFUSED, "already_cancelled")


def test_jobs_of_a_batch_are_told_of_each(app: JobQueue) -> None:
    effects = Effects()
    app.use(effects)

    @app.batch_task(size=10)
    def index(db: Connection, numbers: list[int]) -> None:
        for number in numbers:
            db.execute(insert(ledger).values(job_id=number, charged_by="batch"))

    jobs = app.enqueue_many(index.request(number) for number in range(2))
    with app.worker(poll_s=0.05):
        effects.wait_for("handled", 2)
    told = {(job_id, event) for job_id, event in effects.wait_for("effect", 4)}
    assert told == {(job.id, event) for job in jobs for event in ("begun", "committed")}


def test_an_interrupted_handler_is_told_of_as_such_where_it_ran(app: JobQueue) -> None:
    effects = Effects()
    app.use(effects)
    has_begun = threading.Event()

    @app.task
    async def wait() -> None:
        has_begun.set()
        await asyncio.sleep(BOUND_S)

    wait.enqueue()
    with app.worker(poll_s=0.05, grace_s=0):
        assert has_begun.wait(BOUND_S)
    ((_, handled),) = effects.wait_for("handled")
    ((_, ended),) = effects.wait_for("ended")
    assert handled.outcome is ended.outcome is AttemptOutcome.INTERRUPTED

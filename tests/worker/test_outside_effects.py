"""Outside effects in real workers: steps, policies, and workers killed at the wrong moments."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, insert, select
from sqlalchemy.orm import Session

from jobq import (
    AttemptEnd,
    DatabaseUnavailable,
    InvalidOption,
    InvalidStep,
    InvalidTask,
    Job,
    JobQueue,
    LeaseLost,
    Retry,
    Snooze,
    State,
)
from jobq.protocol.outside import step_key
from jobq.store.step import Step
from tests.worker.charges import call_and_ask, call_at_most_once, charge_by_step, ledger
from tests.worker.conftest import Site, wait_for

QUICK = Retry(base_s=0.01, cap_s=0.05)


@pytest.fixture
def app(site: Site) -> JobQueue:
    return JobQueue(site.url)


def test_what_a_killed_worker_leaves(site: Site) -> None:
    """One job is between its step and its commit, the others are in their calls. None of the calls
    is made again, until a person says so."""
    folders = [site.folder / name for name in ("step", "at_most_once", "ask")]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "go").touch()
    stepping = charge_by_step.enqueue(str(folders[0]))
    once = call_at_most_once.enqueue(str(folders[1]))
    asking = call_and_ask.enqueue(str(folders[2]))

    def calls() -> list[list[str]]:
        files = [folder / "calls" for folder in folders]
        return [file.read_text().split() if file.exists() else [] for file in files]

    victim = site.start_worker()
    wait_for((folders[0] / "stepped-1").exists, "the step to be recorded", site)
    wait_for(lambda: all(calls()), "the calls", site)
    victim.kill()
    victim.wait()
    for gate in (folders[0] / "commit", folders[1] / "go", folders[2] / "go"):
        gate.touch()
    site.start_worker()
    site.wait_until_done(1)
    wait_for(lambda: once.status().state is State.DEAD, "the one to be buried", site)
    wait_for(lambda: asking.status().state is State.AMBIGUOUS, "the other to be parked", site)

    assert calls() == [["1"], ["1"], ["1"]]
    with site.engine.connect() as connection:
        assert connection.scalars(select(ledger.c.charged_by)).all() == ["receipt 1"]
    (step,) = site.app.steps(stepping.id)
    assert (step.name, step.result) == ("call", '"receipt 1"')
    assert stepping.status().attempts == 2
    (attempt,) = site.app.attempts(once.id)
    assert attempt.end is AttemptEnd.EXPIRED
    assert attempt.error is not None
    assert "outside effects happen at most once" in attempt.error.message

    (parked,) = site.app.ambiguous.list()
    assert (parked.id, parked.attempt) == (asking.id, 1)
    assert site.app.ambiguous.resolve(parked, "retry") is True
    assert site.app.ambiguous.resolve(parked, "done") is False
    wait_for(lambda: asking.status().state is State.DONE, "it to be done", site)
    assert calls() == [["1"], ["1"], ["1", "1"]]


# -- policies


@pytest.mark.parametrize(
    ("policy", "state", "runs"),
    [
        ("at_least_once", State.DONE, 2),
        ("at_most_once", State.DEAD, 1),
        ("ask", State.AMBIGUOUS, 1),
    ],
)
def test_what_an_exception_means_is_the_policys(
    site: Site, app: JobQueue, policy: Any, state: State, runs: int
) -> None:
    seen: list[int] = []

    @app.task(name="blocking", outside_effects=policy, retry=QUICK)
    def blocking(job: Job) -> None:
        seen.append(job.attempt)
        if job.attempt == 1:
            raise TimeoutError("the service did not answer")

    @app.task(name="waiting", outside_effects=policy, retry=QUICK)
    async def waiting(job: Job) -> None:
        await asyncio.sleep(0)
        blocking(job)

    jobs = [blocking.enqueue(), waiting.enqueue()]
    with app.worker(poll_s=0.05):
        wait_for(lambda: {job.status().state for job in jobs} == {state}, f"{state}", site)
    app.close()
    assert len(seen) == 2 * runs


def test_a_snooze_is_the_handlers_word_that_nothing_was_done(site: Site, app: JobQueue) -> None:
    seen: list[int] = []

    @app.task(name="busy", outside_effects="at_most_once")
    def busy() -> None:
        seen.append(1)
        if len(seen) < 3:
            raise Snooze(0.01)

    job = busy.enqueue()
    with app.worker(poll_s=0.05):
        wait_for(lambda: job.status().state is State.DONE, "the job to be done", site)
    app.close()
    assert len(seen) == 3


def test_a_handler_whose_worker_stops_is_in_doubt(site: Site, app: JobQueue) -> None:
    has_begun = threading.Event()

    @app.task(name="long", outside_effects="ask")
    async def long() -> None:
        has_begun.set()
        await asyncio.Event().wait()

    job = long.enqueue()
    with app.worker(poll_s=0.05, grace_s=0):
        wait_for(has_begun.is_set, "the handler to begin", site)
    assert job.status().state is State.AMBIGUOUS
    (parked,) = app.ambiguous.list()
    assert parked.error is not None
    assert parked.error.type == "jobq.WorkerStopped"
    app.close()


def test_arguments_that_cannot_be_read_are_not_in_doubt(site: Site, app: JobQueue) -> None:
    """Nothing of the handler has run: it is retried as ever."""

    @app.task(name="changed", outside_effects="at_most_once", retry=Retry(3600, 3600))
    def changed(order_id: int) -> None: ...

    job = changed.enqueue(order_id=7)
    table = "jobq.jobs" if site.engine.dialect.name == "postgresql" else "jobq_jobs"
    site.sql(f"UPDATE {table} SET args = '{{}}'")
    with app.worker(poll_s=0.05):
        wait_for(lambda: app.attempts(job.id), "the attempt to fail", site)
    assert job.status().state is State.SCHEDULED
    app.close()


def test_a_policy_goes_with_the_job_and_not_inside_the_boundary(app: JobQueue) -> None:
    for kind in (Session, Connection):

        def charge(db: Any) -> None: ...

        charge.__annotations__["db"] = kind
        with pytest.raises(InvalidTask, match=r"inside the commit boundary: take `job: Job`"):
            app.task(name="charge", outside_effects="ask")(charge)
    with pytest.raises(InvalidOption, match="outside_effects 'never'"):
        app.task(outside_effects="never")  # type: ignore[call-overload]


def test_a_task_keeps_its_policy_under_other_options(app: JobQueue) -> None:
    @app.task(outside_effects="ask")
    def call() -> None: ...

    assert call.using(priority=3).outside_effects == "ask"


def test_a_decision_has_to_be_one(site: Site, app: JobQueue) -> None:
    with pytest.raises(InvalidOption, match=r"resolution 'perhaps': use 'done', 'retry', 'bury'"):
        app.ambiguous.resolve(None, "perhaps")  # type: ignore[arg-type]


# -- steps


def run_once(site: Site, app: JobQueue, handler: Callable[[Job], object]) -> Any:
    """Run a job of this handler to its end; return the job."""
    job = app.task(name="handler", retry=QUICK)(handler).enqueue()
    with app.worker(poll_s=0.05):
        wait_for(
            lambda: job.status().state in (State.DONE, State.DEAD), "the job to have ended", site
        )
    return job


def test_steps_are_replayed_to_a_failed_attempts_successor(site: Site, app: JobQueue) -> None:
    made: list[str] = []
    seen: list[Any] = []

    def charge(cents: int, *, idempotency_key: UUID) -> tuple[int, UUID]:
        made.append("charge")
        return cents, idempotency_key

    async def mail(to: str) -> dict[str, str]:
        await asyncio.sleep(0)
        made.append("mail")
        return {"to": to}

    def handle(job: Job) -> None:
        seen.append(job.step("charge", charge, 5))
        if job.attempt < 3:
            raise ValueError("afterwards")

    async def handle_async(job: Job) -> None:
        seen.append(await job.astep("charge", charge, cents=5))
        seen.append(await job.astep("mail", mail, "ada"))
        seen.append(await job.astep("stamp", lambda: len(seen)))
        if job.attempt < 2:
            raise ValueError("afterwards")

    job = run_once(site, app, handle)
    key = step_key(job.status().idempotency_key, "charge")
    assert made == ["charge"]
    assert seen == [(5, key)] * 3
    app = JobQueue(site.url)
    seen.clear()
    job = run_once(site, app, handle_async)
    key = step_key(job.status().idempotency_key, "charge")
    assert made == ["charge", "charge", "mail"]
    assert seen == [(5, key), {"to": "ada"}, 2] * 2
    assert [step.name for step in app.steps(job.id)] == ["charge", "mail", "stamp"]
    app.close()


def test_a_step_that_raises_has_no_result_and_may_be_tried_again(site: Site, app: JobQueue) -> None:
    tries: list[int] = []

    def call() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise TimeoutError
        return len(tries)

    def handle(job: Job) -> None:
        with pytest.raises(TimeoutError):
            job.step("call", call)
        with pytest.raises(TimeoutError):
            job.step("call", call)
        assert job.step("call", call) == 3

    job = run_once(site, app, handle)
    assert (job.status().state, job.status().attempts) == (State.DONE, 1)
    app.close()


def test_steps_that_cannot_be_are_told_why(site: Site, app: JobQueue) -> None:
    told: list[str] = []

    async def call() -> int:
        return 1

    def refused(job: Job, name: str, function: Callable[..., Any]) -> None:
        with pytest.raises(InvalidStep) as error:
            job.step(name, function)
        told.append(str(error.value))

    def handle(job: Job) -> None:
        job.step("once", int)
        refused(job, "once", int)
        refused(job, "", int)
        refused(job, "coroutine", call)
        refused(job, "hidden", lambda: call())
        refused(job, "unrecordable", object)
        with job.commit(Connection) as db:
            refused(job, "inside", int)
            db.execute(insert(ledger).values(job_id=job.id, charged_by="once"))
        refused(job, "after", int)

    job = run_once(site, app, handle)
    assert site.charged() == [job.id], app.attempts(job.id)
    remedies = [
        "a name of its own",
        "1 to 200 printable",
        "await job.astep",
        "await job.astep",
        "Return plain values",
        "run steps before it",
        "before job.commit()",
    ]
    for message, remedy in zip(told, remedies, strict=True):
        assert remedy in message
    app.close()


def test_a_zombies_step_is_refused_and_its_worker_learns_of_it(site: Site, app: JobQueue) -> None:
    """The lease is lost during the call; what the handler makes of the refusal does not matter."""
    is_calling, may_return = threading.Event(), threading.Event()
    seen: list[str] = []

    def call() -> str:
        is_calling.set()
        may_return.wait(60)
        return "late"

    @app.task(name="slow", retry=QUICK)
    def slow(job: Job) -> None:
        try:
            job.step("call", call)
        except BaseException as refusal:  # noqa: BLE001 - what a handler should not do
            seen.append(type(refusal).__name__)

    job = slow.enqueue()
    with app.worker(poll_s=0.05, lease_s=30):
        wait_for(is_calling.is_set, "the call")
        table = "jobq.leases" if site.engine.dialect.name == "postgresql" else "jobq_leases"
        site.sql(f"UPDATE {table} SET token = token + 1000 WHERE job_id = {job.id}")
        may_return.set()
        wait_for(lambda: site.rows("refusals"), "the refusal to be kept", site)
    assert seen == [LeaseLost.__name__]
    assert app.steps(job.id) == []
    assert {row["reason"] for row in site.rows("refusals")} == {"lease_lost"}
    app.close()


def test_a_call_that_was_made_is_recorded_before_a_cancelled_handler_stops(
    site: Site, app: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker stops while the result is on its way to the database."""
    from jobq import outside

    is_recording, may_record = threading.Event(), threading.Event()
    insist = outside.Outside._insist_async

    async def slow(self: Any, step: Callable[[], Step[Any]]) -> Any:
        if is_calling:
            is_recording.set()
            await asyncio.to_thread(may_record.wait, 60)
        return await insist(self, step)

    monkeypatch.setattr(outside.Outside, "_insist_async", slow)
    is_calling: list[int] = []

    @app.task(name="call")
    async def call(job: Job) -> None:
        await job.astep("call", lambda: is_calling.append(1))

    job = call.enqueue()
    with app.worker(poll_s=0.05, grace_s=0):
        wait_for(is_recording.is_set, "the recording", site)
        threading.Timer(0.3, may_record.set).start()
    assert [step.name for step in app.steps(job.id)] == ["call"]
    assert [attempt.end for attempt in app.attempts(job.id)] == [AttemptEnd.INTERRUPTED]
    app.close()


def test_a_result_is_insisted_on_while_the_database_is_away(
    site: Site, app: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two answers are lost, the first of them after the COMMIT."""
    made: list[int] = []
    lost: list[str] = []

    def make() -> str:
        made.append(1)
        return "made"

    def handle(job: Job) -> None:
        database = job._database
        run = database.run

        def losing(step: Step[Any]) -> Any:
            if made and len(lost) < 2:
                lost.append("answer")
                if len(lost) == 1:
                    run(step)
                raise DatabaseUnavailable("no answer")
            return run(step)

        monkeypatch.setattr(database, "run", losing)
        assert job.step("call", make) == "made"

    job = run_once(site, app, handle)
    assert (len(made), len(lost), job.status().attempts) == (1, 2, 1)
    assert [step.result for step in app.steps(job.id)] == ['"made"']
    app.close()

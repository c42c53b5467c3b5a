"""Text made to break out, text that cannot be stored, and too much of it: on both backends."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from jobq import (
    ArgumentsTooLarge,
    InvalidArguments,
    InvalidOption,
    Job,
    JobqError,
    JobQueue,
    Limit,
    Schedule,
    State,
    Unique,
)
from jobq import schema as migrations
from jobq.models import tables_for
from jobq.protocol.arguments import MAX_DEPTH
from jobq.roles import grant_sql
from jobq.testing import assert_enqueued, drain

# Printable, and at most 200 characters: names too may be any of these.
BREAKING_OUT = {
    "statement": "'; DROP TABLE jobq.jobs; DROP TABLE jobq_jobs; --",
    "identifier": '"; DROP SCHEMA jobq CASCADE; --',
    "comment": "*/ DELETE FROM jobq_jobs /*",
    "parameters": "%(shard)s %s %% :shard ::text ? $1 {schema} {wanted}",
    "quotes": "\\' \\\" ` $$ E'\\x27' U&'\\0027'",
    "json": '{"a": [1, "b\\u0000"]} \'"',
    "array": "{a,NULL,\"b\"} '[1:2]={1,2}'",
    "version": "task@99",
    "letters": "ß€𝄞 ＇ ‘ ’ ʼ",  # noqa: RUF001 - not the quotes that they look like
    "longest": "x" * 200,
}
UNSTORABLE = {"NUL": "a\x00b", "lone surrogate": "a\ud800b"}


@pytest.fixture
def app(database_url: str) -> Iterator[JobQueue]:
    app = JobQueue(database_url)
    yield app
    app.close()


def execute(url: str, statement: str) -> list[Any]:
    """Written for PostgreSQL's schema; no row that is read has the schema's name in it."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(str(make_url(url).database), isolation_level=None)
        try:
            return connection.execute(statement.replace("jobq.", "jobq_")).fetchall()
        finally:
            connection.close()
    with psycopg.connect(url, autocommit=True) as postgres:
        done = postgres.execute(statement.encode())
        return done.fetchall() if done.description else []


def refusal_of(use: Callable[[], object], what: str) -> str:
    """What a jobq error says; it can be logged."""
    try:
        use()
    except JobqError as error:
        return str(error).encode().decode()
    pytest.fail(f"{what} was taken")


def assert_intact(url: str, jobs: int) -> None:
    """Every table is there, and no job is gone."""
    backend = "sqlite" if url.startswith("sqlite") else "postgresql"
    for table in tables_for(backend):
        execute(url, f"SELECT count(*) FROM jobq.{table}")
    assert execute(url, "SELECT count(*) FROM jobq.jobs") == [(jobs,)]


def test_text_that_would_break_out_is_text(app: JobQueue, database_url: str) -> None:
    """As task, queue, argument, key, limit, step, note and result: it comes back as it was."""
    jobs = 0
    for text in BREAKING_OUT.values():
        name = text if "@" not in text else f"{text} of"
        limits = [Limit(text[:100].replace("=", ""), concurrency=1, by=["given"])]

        @app.task(name=name[:200], queue=text, limits=limits, unique=Unique(by=["given"]))
        def echo(job: Job, given: dict[str, str]) -> dict[str, str]:
            job.progress(note=given["text"])
            return {"key": job.step(given["text"], lambda: given["text"])}

        job = echo.enqueue({"text": text, text: "key"})
        assert echo.enqueue({"text": text, text: "key"}).id == job.id
        keyed = echo.using(unique=Unique(key=text), delay=3600).enqueue({"text": text})
        assert keyed.is_new
        assert_enqueued(app, echo, given={"text": text, text: "key"})
        app.queues.pause(text)
        assert app.queues.list()[0].name == text
        assert app.queues.resume(text)
        jobs += 2
        (status,) = drain(app, queues=[text])
        assert (status.state, status.queue, status.task) == (State.DONE, text, echo.name)
        assert job.result(1) == {"key": text}
        assert [(step.name, step.result) for step in app.steps(job.id)] == [
            (text, app.steps(job.id)[0].result)
        ]
        assert keyed.cancel()
    assert_intact(database_url, jobs)


def test_errors_that_would_break_out_are_kept_as_they_are(app: JobQueue, database_url: str) -> None:
    @app.task(name="fail", max_attempts=1)
    def fail(text: str) -> None:
        raise type(text, (Exception,), {"__module__": text})(text)

    for text in BREAKING_OUT.values():
        job = fail.enqueue(text)
        drain(app, raises=False)
        (attempt,) = app.attempts(job.id)
        assert attempt.error is not None
        assert attempt.error.message == text
        (dead,) = app.dead.list(task="fail", error_type=attempt.error.type)
        assert app.dead.list(task=text) == app.dead.list(queue=text) == []
        assert app.dead.retry(dead)
        drain(app, raises=False)
    assert_intact(database_url, len(BREAKING_OUT))


def test_schedules_that_would_break_out_are_names(app: JobQueue, database_url: str) -> None:
    @app.task(name="tick")
    def tick(text: str) -> None: ...

    for text in BREAKING_OUT.values():
        app.schedule(text, "0 0 1 1 *", tick.request(text))
        for cron, zone in ((text, "UTC"), ("* * * * *", text)):
            with pytest.raises(InvalidOption):
                Schedule(text, cron, tick.request(text), zone)
    first = tick.enqueue("first")
    with app.worker(poll_s=0.02):
        first.wait(30)  # schedules are declared before the first claim
    assert [one.schedule.name for one in app.schedules.list()] == sorted(BREAKING_OUT.values())
    for text in BREAKING_OUT.values():
        app.schedules.pause(text)
        job = app.schedules.run_now(text)
        assert tick.read("tick", job.status().args) == {"text": text}
        app.schedules.delete(text)
    assert_intact(database_url, len(BREAKING_OUT) + 1)


def test_schemas_that_would_break_out_are_refused(database_url: str) -> None:
    uses: list[Callable[[str], object]] = [
        lambda schema: JobQueue(database_url, schema=schema).status(1),
        lambda schema: migrations.upgrade(database_url, schema=schema),
        lambda schema: migrations.downgrade(database_url, schema=schema),
        lambda schema: migrations.current_revision(database_url, schema=schema),
        lambda schema: grant_sql(schema),
        lambda schema: grant_sql("jobq", prefix=schema),
    ]
    for text in [*BREAKING_OUT.values(), *UNSTORABLE.values(), 'jobq"', "jobq\n", "Jobq", "x" * 64]:
        for use in uses:
            with pytest.raises(InvalidOption, match=r"schema|prefix"):
                use(text)


@pytest.mark.parametrize("text", UNSTORABLE.values(), ids=UNSTORABLE)
def test_text_that_cannot_be_stored_is_refused_where_it_is_given(
    app: JobQueue, database_url: str, text: str
) -> None:
    @app.task(name="echo")
    def echo(given: Any = None) -> None: ...

    uses: dict[str, Callable[[], object]] = {
        "argument": lambda: echo.enqueue(text),
        "inside": lambda: echo.enqueue([{"a": [text]}]),
        "key": lambda: echo.enqueue({text: 1}),
        "queue": lambda: echo.using(queue=text),
        "unique key": lambda: Unique(key=text),
        "limit": lambda: Limit(text, concurrency=1),
        "task": lambda: app.task(name=text)(lambda: None),
        "schedule": lambda: app.schedule(text, "* * * * *", echo.request()),
        "time zone": lambda: app.schedule("a", "* * * * *", echo.request(), timezone=text),
        "cron": lambda: app.schedule("b", text, echo.request()),
        "pause": lambda: app.queues.pause(text),
        "schedule's name": lambda: app.schedules.pause(text),
    }
    for what, use in uses.items():
        assert "\x00" not in refusal_of(use, what)
    # What is only looked for, by a dashboard's visitor say: SQLite compares NUL like any other
    # character, and finds nothing.
    for look in (
        lambda: app.queues.resume(text),
        lambda: app.dead.list(task=text),
        lambda: app.dead.list(error_type=text),
        lambda: app.dead.retry_all(queue=text),
    ):
        with suppress(JobqError):
            assert not look()
    assert_intact(database_url, 0)


@pytest.mark.parametrize("text", UNSTORABLE.values(), ids=UNSTORABLE)
def test_a_handlers_own_bad_text_fails_its_job_alone(app: JobQueue, text: str) -> None:
    """The worker goes on: one that lost its heartbeat to a bad note would lose all its leases."""

    @app.task(name="note", max_attempts=1)
    def note(job: Job) -> None:
        job.progress(0.5, text)

    @app.task(name="result", max_attempts=1)
    def result() -> str:
        return text

    @app.task(name="step", max_attempts=1)
    def step(job: Job) -> None:
        job.step(text, lambda: None)

    @app.task(name="fail", max_attempts=1)
    def fail() -> None:
        raise ValueError(text)

    @app.task(name="good")
    def good(job: Job) -> None:
        job.progress(0.5, "half")

    bad = [task.enqueue() for task in (note, result, step, fail)]
    job = good.enqueue()
    with app.worker(poll_s=0.02, concurrency=1):
        assert [one.wait(30).state for one in bad] == [State.DEAD] * 4
        assert job.wait(30).state in (State.COMMITTED, State.DONE)
    errors = {dead.task: dead.error.type for dead in app.dead.list() if dead.error}
    assert errors == {
        "note": "jobq.InvalidOption",
        "result": "jobq.InvalidResult",
        "step": "jobq.InvalidStep",
        "fail": "ValueError",
    }


def test_numbers_beyond_the_database_are_no_jobs(app: JobQueue) -> None:
    @app.task(name="after")
    def after() -> None: ...

    for job_id in (2**63, -(2**70), 10**40):
        for use in (app.status, app.cancel, lambda one: after.using(after=one).enqueue()):
            with pytest.raises(JobqError):
                use(job_id)


def test_too_much_says_how_much_and_what_to_do(database_url: str) -> None:
    app = JobQueue(database_url, max_args_bytes=1_000)

    @app.task(name="echo")
    def echo(text: str) -> None: ...

    @app.task(name="returns", max_attempts=1)
    def returns() -> str:
        return "x" * 300_000

    with pytest.raises(ArgumentsTooLarge, match=r"1,011 bytes .* 1,000: .*max_args_bytes"):
        echo.enqueue("x" * 1_000)
    with pytest.raises(ArgumentsTooLarge, match=r"10,000,011 bytes"):
        app.enqueue_many([echo.request("small"), echo.request("x" * 10_000_000)])
    for name in ("x" * 201, "x" * 1_000_000):
        with pytest.raises(InvalidOption, match="200 printable") as refused:
            echo.using(queue=name)
        assert len(str(refused.value)) < 1_000
    long_key = echo.using(unique=Unique(key="k" * 1_000_000))
    assert long_key.enqueue("a").id == long_key.enqueue("b").id
    returns.enqueue()
    drain(app, raises=False)
    (dead,) = app.dead.list()
    assert dead.error is not None
    assert "300,002 bytes" in dead.error.message
    app.close()


def nested(depth: int) -> object:
    value: object = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def test_deep_nesting_is_refused_and_when_it_is_stored_anyway_fails_its_job_alone(
    app: JobQueue, database_url: str
) -> None:
    @app.task(name="echo", max_attempts=1)
    def echo(given: Any) -> None: ...

    @app.task(name="old", max_attempts=1, version=2, upgrade=lambda version, given: given)
    def old(given: Any) -> None: ...

    @app.batch_task(
        name="batch", size=10, max_attempts=1, version=2, upgrade=lambda _, given: given
    )
    def batch(given: list[object]) -> None: ...

    echo.enqueue(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 900, 5_000):
        with pytest.raises(InvalidArguments):
            echo.enqueue(nested(depth))
    bad = [task.enqueue(1) for task in (echo, old, batch)]
    deep = '{"given": ' + "[" * 100_000 + "]" * 100_000 + "}"
    if database_url.startswith("sqlite"):  # PostgreSQL's json takes no more than its stack does
        execute(database_url, f"UPDATE jobq.jobs SET args = '{deep}' WHERE id > 1")
        execute(database_url, "UPDATE jobq.jobs SET task = 'old' WHERE task = 'old@2'")
        execute(database_url, "UPDATE jobq.ready SET task = 'old' WHERE task = 'old@2'")
        execute(database_url, "UPDATE jobq.jobs SET task = 'batch' WHERE task = 'batch@2'")
        execute(database_url, "UPDATE jobq.ready SET task = 'batch' WHERE task = 'batch@2'")
    else:
        execute(database_url, "UPDATE jobq.jobs SET args = '[]' WHERE id > 1")
    with app.worker(poll_s=0.02):
        assert [one.wait(30).state for one in bad] == [State.DEAD] * 3
        good = echo.enqueue("good")
        assert good.wait(30).state in (State.COMMITTED, State.DONE)
    assert {dead.error.type for dead in app.dead.list() if dead.error} == {
        "jobq.UnreadableArguments"
    }


@pytest.mark.parametrize(
    "args", ["[]", "null", "1", '"x"', "{}", '{"given": 1, "__class__": 2}', '{"self": 1}']
)
def test_stored_arguments_that_are_none_fail_their_job_alone(
    app: JobQueue, database_url: str, args: str
) -> None:
    called = []

    @app.task(name="echo", max_attempts=1)
    def echo(given: Any) -> None:
        called.append(given)

    job = echo.enqueue(1)
    execute(database_url, f"UPDATE jobq.jobs SET args = '{args}'")
    drain(app, raises=False)
    assert job.status().state is State.DEAD
    assert called == []

"""Registering handlers: what jobq fills in, what is refused, and what a task is called."""

from __future__ import annotations

import enum
import functools
import inspect
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from jobq import InvalidOption, InvalidTask, Job, JobQueue

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTypeCheckers

Psycopg = psycopg.Connection[Any]


class Choice(enum.Enum):
    ONE = 1
    TWO = "two"


class BillingSession(Session):
    """A service's own session class."""


def plain(order_id: int) -> None: ...
def with_session(db: Session, order_id: int) -> None: ...
def with_own_session(db: BillingSession, order_id: int) -> None: ...
def with_connection(db: Connection, order_id: int) -> None: ...
def with_psycopg(db: psycopg.Connection[Any], order_id: int) -> None: ...
def with_bare_psycopg(db: psycopg.Connection, order_id: int) -> None: ...
def with_sqlite3(db: sqlite3.Connection, order_id: int) -> None: ...
def with_job(job: Job, order_id: int) -> None: ...
def with_session_and_job(db: Session, job: Job, order_id: int) -> None: ...
def with_job_and_session(job: Job, db: Session, order_id: int) -> None: ...
def with_positional_session(db: Session, /, order_id: int) -> None: ...
def with_nothing() -> None: ...
async def async_plain(order_id: int) -> None: ...
async def async_session(db: AsyncSession, order_id: int) -> None: ...
async def async_connection(db: AsyncConnection, order_id: int) -> None: ...
async def async_psycopg(db: psycopg.AsyncConnection[Any], order_id: int) -> None: ...
async def async_job(job: Job, order_id: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "kind", "injected"),
    [
        (plain, None, ()),
        (with_session, Session, ("effect",)),
        (with_own_session, BillingSession, ("effect",)),
        (with_connection, Connection, ("effect",)),
        (with_psycopg, psycopg.Connection, ("effect",)),
        (with_bare_psycopg, psycopg.Connection, ("effect",)),
        (with_sqlite3, sqlite3.Connection, ("effect",)),
        (with_job, None, ("job",)),
        (with_session_and_job, Session, ("effect", "job")),
        (with_job_and_session, Session, ("job", "effect")),
        (with_positional_session, Session, ("effect",)),
        (with_nothing, None, ()),
        (async_plain, None, ()),
        (async_session, AsyncSession, ("effect",)),
        (async_connection, AsyncConnection, ("effect",)),
        (async_psycopg, psycopg.AsyncConnection, ("effect",)),
        (async_job, None, ("job",)),
    ],
)
def test_what_a_handler_asks_for(
    nowhere: JobQueue, function: Callable[..., Any], kind: type[Any] | None, injected: Any
) -> None:
    handler = nowhere.task(function).handler
    assert handler.effect_kind is kind
    assert handler.injected == injected
    assert handler.is_async is inspect.iscoroutinefunction(function)


def two_sessions(db: Session, other: Connection) -> None: ...
def two_jobs(job: Job, other: Job) -> None: ...
def session_last(order_id: int, db: Session) -> None: ...
def session_by_keyword(order_id: int, *, db: Session) -> None: ...
def job_last(order_id: int, job: Job) -> None: ...
def any_positional(*orders: int) -> None: ...
def any_keyword(**orders: int) -> None: ...
def positional_only(order_id: int, /) -> None: ...
def unresolvable(price: OnlyForTypeCheckers) -> None: ...
def unreadable(choice: Choice) -> None: ...
def a_generator() -> Iterator[int]:
    yield 1


async def an_async_generator() -> AsyncIterator[int]:
    yield 1


async def async_with_blocking_session(db: Session) -> None: ...
async def async_with_blocking_psycopg(db: Psycopg) -> None: ...
def blocking_with_async_session(db: AsyncSession) -> None: ...


class Callables:
    def __call__(self, order_id: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (two_sessions, "parameter 'other' asks for a session.*first, at most one of each"),
        (two_jobs, "parameter 'other' asks for"),
        (session_last, "parameter 'db' asks for a session, connection or job; such .* come first"),
        (session_by_keyword, "parameter 'db' asks for"),
        (job_last, "parameter 'job' asks for"),
        (any_positional, r"parameter \*orders: int cannot be checked by name"),
        (any_keyword, r"parameter \*\*orders: int cannot be checked by name"),
        (positional_only, "parameter order_id: int cannot be checked by name"),
        (unresolvable, "'OnlyForTypeCheckers' is not defined.*not only under TYPE_CHECKING"),
        (unreadable, "its parameters' types cannot be read from JSON"),
        (a_generator, "a function or coroutine, not a generator"),
        (an_async_generator, "a function or coroutine, not a generator"),
        (async_with_blocking_session, "async and asks for a blocking Session"),
        (async_with_blocking_psycopg, "async and asks for a blocking Connection"),
        (blocking_with_async_session, "plain `def` and asks for AsyncSession: make it `async"),
        (Callables(), "a handler is a function, not a Callables: wrap it"),
        (functools.partial(plain, 1), "a handler is a function, not a partial"),
        (Callables, "a handler is a function, not a type"),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_a_signature_that_cannot_be_served(
    nowhere: JobQueue, function: Callable[..., Any], told: str
) -> None:
    with pytest.raises(InvalidTask, match=told):
        nowhere.task(function)
    assert not nowhere.tasks, "what is refused is not registered"


class TestNames:
    def test_module_and_function(self, nowhere: JobQueue) -> None:
        assert nowhere.task(plain).name == "tests.client.test_task.plain"
        assert list(nowhere.tasks) == ["tests.client.test_task.plain"]

    def test_a_name_of_ones_own(self, nowhere: JobQueue) -> None:
        task = nowhere.task(name="orders.confirm")(plain)
        assert nowhere.tasks["orders.confirm"] is task

    def test_a_name_is_taken_once(self, nowhere: JobQueue) -> None:
        nowhere.task(plain)
        with pytest.raises(InvalidTask, match=r"two tasks are named 'tests\..*@app\.task\(name="):
            nowhere.task(plain)

    @pytest.mark.parametrize("name", ["", "a\x00b", "n" * 201])
    def test_a_name_is_text_of_some_length(self, nowhere: JobQueue, name: str) -> None:
        with pytest.raises(InvalidOption, match="1 to 200 printable characters"):
            nowhere.task(name=name)

    @pytest.mark.parametrize("how", [["shop_script.py"], ["-m", "shop_script"]])
    def test_a_script_is_named_as_its_importers_name_it(
        self, tmp_path: Path, how: list[str]
    ) -> None:
        (tmp_path / "shop_script.py").write_text(
            "from jobq import JobQueue\n"
            "app = JobQueue('sqlite:///shop.db')\n"
            "@app.task\n"
            "def charge(order_id: int) -> None: ...\n"
            "print(charge.name)\n"
        )
        printed = subprocess.check_output(
            [sys.executable, *how], cwd=tmp_path, text=True, timeout=60
        )
        assert printed == "shop_script.charge\n"


class TestTask:
    def test_is_still_the_function(self, nowhere: JobQueue) -> None:
        def add(one: int, other: int = 2) -> int:
            """Add."""
            return one + other

        task = nowhere.task(add)
        assert task(1) == 3
        assert task(1, other=5) == 6
        assert task.__doc__ == "Add."
        assert repr(task).endswith("add>")

    def test_is_called_with_the_session_it_asks_for(self, nowhere: JobQueue) -> None:
        seen: list[Session] = []

        def handler(db: Session, order_id: int) -> None:
            seen.append(db)

        session = Session()
        nowhere.task(handler)(session, order_id=7)
        assert seen == [session]

    def test_may_be_a_decorated_function(self, nowhere: JobQueue) -> None:
        def logged(function: Callable[..., None]) -> Callable[..., None]:
            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> None:
                function(*args, **kwargs)

            return wrapper

        handler = nowhere.task(logged(with_session)).handler
        assert handler.effect_kind is Session
        assert nowhere.tasks["tests.client.test_task.with_session"].request(7).args == (
            '{"order_id":7}'
        )

    def test_may_be_a_method(self, nowhere: JobQueue) -> None:
        task: Any = nowhere.task(Callables().__call__)
        assert task.request(order_id=7).args == '{"order_id":7}'


def test_a_worker_refuses_tasks_of_the_other_backend() -> None:
    for url, function in (
        ("sqlite:///shop.db", with_psycopg),
        ("sqlite:///shop.db", async_psycopg),
        ("postgresql://localhost/shop", with_sqlite3),
    ):
        app = JobQueue(url)
        app.task(name="charge")(function)
        with pytest.raises(InvalidTask, match=r"task 'charge' asks for a .*onnection.* has not"):
            app.worker()

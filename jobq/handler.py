"""What a task's function asks for: a session or connection, its job, and its arguments."""

from __future__ import annotations

import inspect
import sqlite3
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from jobq.errors import InvalidOption, InvalidTask
from jobq.job import Job
from jobq.protocol.arguments import Arguments

BLOCKING_KINDS = (Session, Connection, psycopg.Connection, sqlite3.Connection)
ASYNC_KINDS = (AsyncSession, AsyncConnection, psycopg.AsyncConnection)


@dataclass(frozen=True, slots=True)
class Handler:
    """A function, and how to call it."""

    function: Callable[..., Any]
    is_async: bool
    effect_kind: type[Any] | None
    """The class of its session or connection parameter: it runs inside the effect transaction."""
    injected: tuple[str, ...]
    """Its leading parameters that jobq fills, in order: "effect", "job"."""
    arguments: Arguments
    returned: Any
    """Its return annotation; None when it has none, or says that it returns nothing."""

    def call(self, task: str, *args: object, **kwargs: object) -> Any:
        """Call a plain `def`. Raises what it raises; InvalidTask when it is none."""
        returned = self.function(*args, **kwargs)
        if inspect.iscoroutine(returned):
            # A decorator hid that the function is a coroutine function: nothing of it has run.
            returned.close()
            raise InvalidTask(
                f"task {task!r} is a plain `def` that returned a coroutine: make the function that "
                "is registered `async def`"
            )
        return returned

    def leading(self, job: Job, effect: object) -> list[object]:
        """Return what jobq passes before the job's own arguments."""
        return [job if name == "job" else effect for name in self.injected]


def inspect_handler(task: str, function: Callable[..., Any], *, is_batch: bool = False) -> Handler:
    """Read a handler's signature. Raises InvalidTask, saying what to change.

    `is_batch`: it takes the arguments of several jobs, as a sequence.
    """
    if not inspect.isroutine(function):
        raise InvalidTask(
            f"task {task!r}: a handler is a function, not a {type(function).__qualname__}: wrap it "
            "in a `def` or `async def`"
        )
    is_async = inspect.iscoroutinefunction(function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidTask(f"task {task!r}: a handler is a function or coroutine, not a generator")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise InvalidTask(
            f"task {task!r}: an annotation cannot be resolved ({error}); import the name at run "
            "time, not only under TYPE_CHECKING"
        ) from error
    parameters = [
        parameter.replace(annotation=hints.get(parameter.name, parameter.empty))
        for parameter in inspect.signature(function).parameters.values()
    ]
    injected: list[str] = []
    effect_kind: type[Any] | None = None
    while parameters:
        wanted = _injectable(parameters[0].annotation)
        if wanted is None or wanted in injected:
            break
        if wanted == "effect":
            effect_kind = _class_of(parameters[0].annotation)
        injected.append(wanted)
        parameters.pop(0)
    for parameter in parameters:
        if _injectable(parameter.annotation) is not None:
            raise InvalidTask(
                f"task {task!r}: parameter {parameter.name!r} asks for a session, connection or "
                "job; such parameters come first, at most one of each"
            )
    if effect_kind is not None:
        _check_colour(task, effect_kind, is_async=is_async)
    if is_batch:
        parameters = [_one_of_the_batch(task, parameters, injected)]
    returned = hints.get("return")
    return Handler(
        function,
        is_async,
        effect_kind,
        tuple(injected),
        Arguments(task, parameters),
        None if returned in (type(None), typing.NoReturn, typing.Never) else returned,
    )


def _one_of_the_batch(
    task: str, parameters: list[inspect.Parameter], injected: list[str]
) -> inspect.Parameter:
    """The one parameter of a batch's handler, as a single job has it."""
    if "job" not in injected and len(parameters) == 1:
        (parameter,) = parameters
        of = typing.get_args(parameter.annotation)
        if typing.get_origin(parameter.annotation) in (list, Sequence) and len(of) == 1:
            return parameter.replace(annotation=of[0], default=parameter.empty)
    raise InvalidTask(
        f"batch task {task!r}: its handler takes a session or connection, if it has an effect, and "
        "one sequence with an item for each job, as in `def index(db: Session, ids: list[int])`"
    )


def _class_of(annotation: object) -> type[Any] | None:
    """psycopg.Connection[Any] is a generic alias; its origin is the class."""
    origin = typing.get_origin(annotation) or annotation
    return origin if isinstance(origin, type) else None


def _injectable(annotation: object) -> str | None:
    kind = _class_of(annotation)
    if kind is None:
        return None
    if issubclass(kind, Job):
        return "job"
    return "effect" if issubclass(kind, BLOCKING_KINDS + ASYNC_KINDS) else None


def _check_colour(task: str, kind: type[Any], *, is_async: bool) -> None:
    if is_async and issubclass(kind, BLOCKING_KINDS):
        raise InvalidTask(
            f"task {task!r} is async and asks for a blocking {kind.__name__}, which would stall "
            "the event loop: use the async class, or a plain `def`"
        )
    if not is_async and issubclass(kind, ASYNC_KINDS):
        raise InvalidTask(
            f"task {task!r} is a plain `def` and asks for {kind.__name__}: make it `async def`, "
            "or use the blocking class"
        )


def check_process(
    task: str, handler: Handler, *, is_in_process: bool, memory_mb: int | None
) -> None:
    """Raise InvalidTask or InvalidOption when it cannot run in a process of its own as asked."""
    if is_in_process and handler.is_async:
        raise InvalidTask(f"task {task!r} is async: process=True is for plain `def` handlers")
    if memory_mb is not None and not is_in_process:
        raise InvalidOption(
            f"task {task!r}: memory_mb limits a process: register it with process=True as well"
        )
    if memory_mb is not None and memory_mb < 1:
        raise InvalidOption(f"task {task!r}: memory_mb is {memory_mb}: use 1 or more")

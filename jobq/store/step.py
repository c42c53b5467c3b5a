"""A step of the protocol, without its I/O.

A step is a generator: it yields the statements it needs, is sent their rows, and returns its
result. So one readable definition serves every way of running it (psycopg, sqlite3, SQLAlchemy;
blocking or async), and a test can stop between any two statements of the real thing. The idea
is psycopg 3's own (psycopg/generators.py).

All statements of one step belong in one transaction, which whoever runs the step provides.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

Row = Sequence[Any]
Rows = Sequence[Row]


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement in its driver's own placeholder style, with its named parameters."""

    sql: str
    params: Mapping[str, object]
    is_whole: bool = False
    """Whether it is its step's only one: then it needs no BEGIN and no COMMIT around it."""
    copied: Sequence[Row] | None = None
    """The rows of a COPY FROM STDIN, which psycopg connections take."""


Step = Generator[Statement, Rows, T]


def first_of(step: Step[T]) -> Statement | None:
    """Return the statement with which the step begins, None if it needs none; it is not run."""
    try:
        return next(step)
    except StopIteration:
        return None

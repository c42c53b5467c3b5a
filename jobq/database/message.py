"""Several statements of jobq's own in one message to PostgreSQL: one round trip.

The simple query protocol takes any number of statements and stops at the first that fails, but it
takes no parameters ("Multiple Statements in a Simple Query", in the manual's chapter on the
protocol). jobq's are whole numbers, which are written out.
"""

from __future__ import annotations

import itertools
import re
from typing import Protocol

from psycopg import errors, generators
from psycopg.abc import PQGen
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

from jobq.store.step import Rows, Statement, Step

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"

# Names are not used again: a message that fails leaves it open whether its PREPARE was done.
_numbers = itertools.count(1)
_PARAMETER = re.compile(r"%\((\w+)\)s")


class KeepsPlans(Protocol):
    """A connection that knows which statements of jobq's own its server has a plan of."""

    pgconn: PGconn
    prepared: dict[str, str]
    """Their names, by their text."""


def begun_with(statement: Statement | None, connection: KeepsPlans) -> PQGen[Rows]:
    """Begin a transaction with `statement`, for `connection.wait`; return its rows, as bytes.

    Past psycopg's cursors, which would say BEGIN before it.
    """
    connection.pgconn.send_query(_begin_with(statement, connection.prepared).encode())
    results = yield from generators.execute(connection.pgconn)
    last = results[-1]
    if last.status == ExecStatus.FATAL_ERROR:
        raise errors.error_from_result(last)
    return [
        [last.get_value(row, column) for column in range(last.nfields)]
        for row in range(last.ntuples)
    ]


def _begin_with(statement: Statement | None, prepared: dict[str, str]) -> str:
    if statement is None:
        return BEGIN
    parameters = list(dict.fromkeys(_PARAMETER.findall(statement.sql)))
    numbers = ", ".join(f"{_number(statement, name)}" for name in parameters)
    if name := prepared.get(statement.sql):
        return f"{BEGIN}; EXECUTE {name} ({numbers})"
    name = prepared[statement.sql] = f"jobq_{next(_numbers)}"
    sql = _PARAMETER.sub(lambda found: f"${parameters.index(found[1]) + 1}", statement.sql)
    types = ", ".join(["bigint"] * len(parameters))
    return f"{BEGIN}; PREPARE {name} ({types}) AS {sql}; EXECUTE {name} ({numbers})"


def commit_if(confirm: Step[bool]) -> str:
    """Return the message that commits if the step's question finds a row; else it fails, dividing
    by zero.

    It is not prepared: a ROLLBACK TO of the handler's makes psycopg forget what is.
    """
    try:
        statement = next(confirm)
    except StopIteration:
        return "COMMIT"
    sql = _PARAMETER.sub(lambda found: _number(statement, found[1]), statement.sql)
    return f"SELECT 1 / count(*) FROM ({sql}) AS found; COMMIT"


def _number(statement: Statement, parameter: str) -> str:
    value = statement.params[parameter]
    assert isinstance(value, int), "text would have to be quoted"
    return str(value)

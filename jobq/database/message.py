"""Several statements of jobq's own in one message to PostgreSQL: one round trip.

The simple query protocol takes any number of statements and stops at the first that fails, but it
takes no parameters ("Multiple Statements in a Simple Query", in the manual's chapter on the
protocol). jobq's are whole numbers, which are written out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import cache

from psycopg import Error, errors, generators
from psycopg.abc import PQGen
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from jobq.database.base import NotWhole
from jobq.store.step import Rows, Statement

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"

# Names are not used again: a message that fails leaves it open whether its PREPARE was done.
_numbers = itertools.count(1)
_PARAMETER = re.compile(r"%\((\w+)\)s")


def sent(statements: Sequence[str], pgconn: PGconn) -> PQGen[list[PGresult]]:
    """Send the statements and return their results, up to the first that fails, for
    `connection.wait`. Past psycopg's cursors, which would say BEGIN before them."""
    pgconn.send_query("; ".join(statements).encode())
    results: list[PGresult] = yield from generators.execute(pgconn)
    return results


def can_be_written_out(statement: Statement) -> bool:
    """Whether its parameters are whole numbers."""
    return all(isinstance(value, int) for value in statement.params.values())


def begin_with(statement: Statement | None, prepared: dict[str, str]) -> list[str]:
    """Return what begins a transaction with `statement`, which is planned once a session:
    `prepared` has what the session knows already."""
    if statement is None:
        return [BEGIN]
    if known := prepared.get(statement.sql):
        return [BEGIN, known % statement.params]
    name = f"jobq_{next(_numbers)}"
    parameters, sql = _numbered(statement.sql)
    given = ", ".join(f"%({parameter})d" for parameter in parameters)
    execute = prepared[statement.sql] = f"EXECUTE {name} ({given})"
    types = ", ".join(["bigint"] * len(parameters))
    return [BEGIN, f"PREPARE {name} ({types}) AS {sql}", execute % statement.params]


def commit_if(question: Statement | None) -> list[str]:
    """Return what commits if the question finds a row; else it fails, dividing by zero."""
    if question is None:
        return ["COMMIT"]
    sql = _written_out(question.sql) % question.params
    return [f"SELECT 1 / count(*) FROM ({sql}) AS found", "COMMIT"]


def failure(results: Sequence[PGresult]) -> Error | None:
    """Return the error that the message ended with, if one."""
    last = results[-1]
    return errors.error_from_result(last) if last.status == ExecStatus.FATAL_ERROR else None


def check_committed(results: Sequence[PGresult], committing: Sequence[str]) -> None:
    """Raise what kept a message that begins with the statements `committing` from doing them.

    Raises NotWhole when the question found no row.
    """
    error = failure(results)
    if error is None or len(results) > len(committing):
        return
    # A deferred trigger may divide by zero as well, at COMMIT.
    if isinstance(error, errors.DivisionByZero) and len(results) < len(committing):
        raise NotWhole from error
    raise error


def rows_of(result: PGresult) -> Rows:
    """Return its rows, each value as the bytes that the server wrote."""
    columns = range(result.nfields)
    return [[result.get_value(row, column) for column in columns] for row in range(result.ntuples)]


@cache
def _numbered(sql: str) -> tuple[list[str], str]:
    parameters = list(dict.fromkeys(_PARAMETER.findall(sql)))
    return parameters, _PARAMETER.sub(lambda found: f"${parameters.index(found[1]) + 1}", sql)


@cache
def _written_out(sql: str) -> str:
    """For whole numbers only: text would have to be quoted."""
    return _PARAMETER.sub(r"%(\1)d", sql)

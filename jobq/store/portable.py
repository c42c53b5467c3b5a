"""Statements written once for both backends, as SQLAlchemy Core expressions.

What runs for every job is plain SQL beside the method that runs it; what operators and rarer
features ask for is an expression, compiled for the backend at hand, whose rows come back as the
types of its columns. Row locks (`with_for_update`) are for PostgreSQL; on SQLite, where every step
is the only writer, they compile to nothing.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sqlalchemy import Dialect, Double, Executable, Table, Text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement

from jobq.database.url import Backend
from jobq.models import Instant, tables_for
from jobq.store.step import Row, Statement, Step

_DIALECTS: dict[Backend, Dialect] = {
    "postgresql": psycopg.dialect(),  # type: ignore[no-untyped-call]
    "sqlite": pysqlite.dialect(paramstyle="named"),
}


class now(FunctionElement[Any]):  # noqa: N801 - named like SQLAlchemy's own functions
    """The database's clock, as the statement meets it."""

    type = Instant()
    inherit_cache = True


class seconds_later(FunctionElement[Any]):  # noqa: N801
    """`seconds_later(instant, seconds)`: a point in time, on either backend."""

    type = Instant()
    inherit_cache = True


class seconds_between(FunctionElement[Any]):  # noqa: N801
    """`seconds_between(earlier, later)`, a float."""

    type = Double()
    inherit_cache = True


class queue_of_line(FunctionElement[Any]):  # noqa: N801
    """The queue of a line (see `jobq.protocol.limits`): the first of a list in JSON."""

    type = Text()
    inherit_cache = True


class minute_of(FunctionElement[Any]):  # noqa: N801
    """The minute in which an instant lies: its beginning."""

    type = Instant()
    inherit_cache = True


@compiles(now, "postgresql")
def _now_on_postgresql(element: now, compiler: SQLCompiler, **_: Any) -> str:
    return "clock_timestamp()"


@compiles(now, "sqlite")
def _now_on_sqlite(element: now, compiler: SQLCompiler, **_: Any) -> str:
    return "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"


@compiles(seconds_later, "postgresql")
def _later_on_postgresql(element: seconds_later, compiler: SQLCompiler, **keywords: Any) -> str:
    instant, seconds = (compiler.process(each, **keywords) for each in element.clauses)
    return f"({instant} + make_interval(secs => {seconds}))"


@compiles(seconds_later, "sqlite")
def _later_on_sqlite(element: seconds_later, compiler: SQLCompiler, **keywords: Any) -> str:
    instant, seconds = (compiler.process(each, **keywords) for each in element.clauses)
    return f"({instant} + CAST(round({seconds} * 1000) AS INTEGER))"


@compiles(seconds_between, "postgresql")
def _between_on_postgresql(element: seconds_between, compiler: SQLCompiler, **keywords: Any) -> str:
    earlier, later = (compiler.process(each, **keywords) for each in element.clauses)
    return f"extract(epoch FROM {later} - {earlier})::float8"


@compiles(seconds_between, "sqlite")
def _between_on_sqlite(element: seconds_between, compiler: SQLCompiler, **keywords: Any) -> str:
    earlier, later = (compiler.process(each, **keywords) for each in element.clauses)
    return f"(({later} - {earlier}) / 1000.0)"


@compiles(queue_of_line, "postgresql")
def _queue_on_postgresql(element: queue_of_line, compiler: SQLCompiler, **keywords: Any) -> str:
    (line,) = (compiler.process(each, **keywords) for each in element.clauses)
    return f"({line}::json ->> 0)"


@compiles(queue_of_line, "sqlite")
def _queue_on_sqlite(element: queue_of_line, compiler: SQLCompiler, **keywords: Any) -> str:
    (line,) = (compiler.process(each, **keywords) for each in element.clauses)
    return f"json_extract({line}, '$[0]')"


@compiles(minute_of, "postgresql")
def _minute_on_postgresql(element: minute_of, compiler: SQLCompiler, **keywords: Any) -> str:
    (instant,) = (compiler.process(each, **keywords) for each in element.clauses)
    # Whole arithmetic: date_trunc looks into the session's time zone for each row.
    return f"date_bin('1 minute', {instant}, 'epoch')"


@compiles(minute_of, "sqlite")
def _minute_on_sqlite(element: minute_of, compiler: SQLCompiler, **keywords: Any) -> str:
    (instant,) = (compiler.process(each, **keywords) for each in element.clauses)
    return f"({instant} / 60000 * 60000)"


class Portable:
    """jobq's tables on one backend, and steps made of expressions about them."""

    def __init__(self, backend: Backend, schema: str, shard: int) -> None:
        self.backend = backend
        self.shard = shard
        self.tables = SimpleNamespace(**tables_for(backend, schema))
        self._dialect = _DIALECTS[backend]

    def run(self, expression: Executable) -> Step[list[Row]]:
        """The expression as one statement; its rows, each value as its column's type has it."""
        compiled: Any = expression.compile(  # type: ignore[attr-defined]
            dialect=self._dialect, compile_kwargs={"render_postcompile": True}
        )
        processors = compiled._bind_processors  # noqa: SLF001 - what a Connection does with them
        params = {
            name: processors[name](value) if name in processors else value
            for name, value in compiled.construct_params().items()
        }
        rows = yield Statement(compiled.string, params)
        if self.backend == "postgresql":
            return list(rows)  # psycopg has read them already
        readers = [
            column.type.dialect_impl(self._dialect).result_processor(self._dialect, None)
            for column in getattr(expression, "exported_columns", ())
        ]
        return [
            tuple(read(value) if read else value for read, value in zip(readers, row, strict=True))
            for row in rows
        ]

    def insert(self, table: Table) -> Any:
        """An INSERT that may say ON CONFLICT, which both backends spell alike."""
        return (postgresql if self.backend == "postgresql" else sqlite).insert(table).inline()

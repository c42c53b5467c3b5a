"""What PostgreSQL's plan of a statement reads, as `EXPLAIN (ANALYZE, FORMAT JSON)` tells it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection, sql
from psycopg.adapt import PyFormat, Transformer

HOT = frozenset(
    {
        "jobs",
        "ready",
        "scheduled",
        "leases",
        "commit_records",
        "attempts",
        "refusals",
        "steps",
        "ambiguous",
    }
)
"""The tables that are long when a queue is."""

_PARAMETER = re.compile(r"%\((\w+)\)s")


@dataclass(frozen=True, slots=True)
class Access:
    """An index, and the columns that its condition must name."""

    index: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """One node of a plan that reads a table."""

    kind: str
    table: str
    index: str | None
    condition: str
    visited: float
    """Rows read in all loops: those it gave and those its filter threw away."""

    def is_by(self, access: Access) -> bool:
        names = re.findall(r"\w+", self.condition)
        return self.index == access.index and all(column in names for column in access.columns)


def scans(node: Mapping[str, Any]) -> Iterator[Scan]:
    """Every node at or below `node` that reads a table."""
    children: Sequence[Mapping[str, Any]] = node.get("Plans", ())
    kind = node["Node Type"]
    if "Relation Name" in node and kind != "ModifyTable":
        by = children[0] if kind == "Bitmap Heap Scan" else node
        removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
        yield Scan(
            kind,
            node["Relation Name"],
            by.get("Index Name"),
            by.get("Index Cond", ""),
            (node["Actual Rows"] + sum(node.get(name, 0) for name in removed))
            * node["Actual Loops"],
        )
    for child in children:
        yield from scans(child)


def problems(
    plan: Mapping[str, Any], expected: Mapping[str, Sequence[Access]], max_visited: int
) -> list[str]:
    """What is wrong with the plan: a scan of a hot table that is not by one of the accesses
    expected, or visits more rows; an expected access that is not made."""
    found = [scan for scan in scans(plan) if scan.table in HOT]
    wrong = [
        f"{scan} is by none of {expected.get(scan.table, ())}"
        for scan in found
        # A row that another node found and locked.
        if scan.kind != "Tid Scan"
        and not any(scan.is_by(access) for access in expected.get(scan.table, ()))
    ]
    wrong += [
        f"{scan} visits more than {max_visited} rows"
        for scan in found
        if scan.visited > max_visited
    ]
    wrong += [
        f"{table} is never read by {access}"
        for table, accesses in expected.items()
        for access in accesses
        if not any(scan.table == table and scan.is_by(access) for scan in found)
    ]
    return wrong


class Prepared:
    """A statement prepared on a connection, with the types that psycopg would send."""

    _count = 0

    def __init__(
        self, connection: Connection[Any], template: str, params: Mapping[str, object]
    ) -> None:
        Prepared._count += 1
        self._connection = connection
        names = list(dict.fromkeys(_PARAMETER.findall(template)))
        values = [params[name] for name in names]
        dumped = Transformer(connection)
        dumped.dump_sequence(values, [PyFormat.AUTO] * len(values))
        types = ", ".join(self._type(oid) for oid in dumped.types or ())
        body = _PARAMETER.sub(
            lambda found: f"${names.index(found[1]) + 1}", template.replace("{schema}", "jobq")
        )
        name = f"plan_{Prepared._count}"
        connection.execute(f"PREPARE {name} ({types}) AS {body}".encode())
        given = ", ".join(sql.Literal(value).as_string(connection) for value in values)
        self._explain = f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE {name} ({given})".encode()

    def plan(self) -> Mapping[str, Any]:
        """Run the statement, take it back, and return the plan it ran by."""
        with self._connection.transaction(force_rollback=True):
            rows = self._connection.execute(self._explain).fetchall()
        plan: Mapping[str, Any] = rows[0][0][0]["Plan"]
        return plan

    def _type(self, oid: int) -> str:
        info = self._connection.adapters.types.get(oid)
        if info is None:
            return "unknown"
        return f"{info.regtype}[]" if oid == info.array_oid else info.regtype

"""What the database holds when everything is over, for the checker to compare with the histories.

The ledger has no unique key: nothing but the protocol stands against a double effect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, Column, Engine, Integer, MetaData, Table, create_engine, select
from sqlalchemy.pool import NullPool

from jobq.database.url import parse_url
from jobq.models import tables_for

EFFECTLESS = ("chaos.notify",)
"""Tasks whose commit record has no row in the ledger beside it."""

metadata = MetaData()
ledger = Table(
    "chaos_ledger",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", BigInteger, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
)


@dataclass(frozen=True, slots=True)
class JobRow:
    id: int
    key: str
    """What its enqueuer called it."""
    task: str
    max_attempts: int


@dataclass(frozen=True, slots=True)
class Place:
    """A row of scheduled, ready or leases."""

    table: str
    job: int
    token: int


@dataclass(frozen=True, slots=True)
class RecordRow:
    job: int
    outcome: str
    token: int


@dataclass(frozen=True, slots=True)
class AttemptRow:
    job: int
    token: int
    attempt: int
    outcome: str


@dataclass(frozen=True, slots=True)
class RefusalRow:
    job: int
    token: int
    stage: str
    reason: str


@dataclass(frozen=True, slots=True)
class LedgerRow:
    job: int
    token: int
    attempt: int


@dataclass(frozen=True)
class Books:
    jobs: list[JobRow] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    records: list[RecordRow] = field(default_factory=list)
    attempts: list[AttemptRow] = field(default_factory=list)
    refusals: list[RefusalRow] = field(default_factory=list)
    ledger: list[LedgerRow] = field(default_factory=list)

    @property
    def duplicates(self) -> int:
        """Effects beyond one for each job."""
        return len(self.ledger) - len({row.job for row in self.ledger})


def make_ledger(url: str) -> None:
    with open_engine(url).begin() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)


def read_books(url: str) -> Books:
    """Read every table in one snapshot."""
    engine = open_engine(url)
    tables = tables_for(engine.dialect.name)
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:

        def rows(table: Table) -> list[Mapping[str, Any]]:
            return [dict(row) for row in connection.execute(select(table)).mappings()]

        return Books(
            jobs=[
                JobRow(row["id"], _key(row["args"]), row["task"], row["max_attempts"])
                for row in rows(tables["jobs"])
            ],
            places=[
                Place(name, row["job_id"], row["token"])
                for name in ("scheduled", "ready", "leases", "ambiguous")
                for row in rows(tables[name])
            ],
            records=[
                RecordRow(row["job_id"], row["outcome"], row["token"])
                for row in rows(tables["commit_records"])
            ],
            attempts=[
                AttemptRow(row["job_id"], row["token"], row["attempt"], row["outcome"])
                for row in rows(tables["attempts"])
            ],
            refusals=[
                RefusalRow(row["job_id"], row["token"], row["stage"], row["reason"])
                for row in rows(tables["refusals"])
            ],
            ledger=[LedgerRow(row["job_id"], row["token"], row["attempt"]) for row in rows(ledger)],
        )


def open_engine(url: str) -> Engine:
    """Each question on a connection of its own: the server comes and goes in between."""
    return create_engine(parse_url(url), poolclass=NullPool)


def _key(args: object) -> str:
    given = json.loads(args) if isinstance(args, str) else args
    return str(given["key"]) if isinstance(given, dict) and "key" in given else ""

"""Where a schedule is played: one connection for each actor, and one that watches.

Nothing is timed. A statement that does not answer at once is either waiting for a lock, which
PostgreSQL is asked (`pg_blocking_pids`), or slow, and then it is waited for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import psycopg
from psycopg.pq import ExecStatus
from psycopg.rows import tuple_row
from psycopg.types.numeric import Int8Dumper

from jobq.database.postgres import PLAN_ONCE
from jobq.database.url import conninfo, parse_url
from jobq.store.step import Rows, Statement
from tests.chaos.books import AttemptRow, Books, JobRow, LedgerRow, Place, RecordRow, RefusalRow
from tests.explorer.programs import LEDGER, Cast

PATIENCE_S = 0.003
"""How long to wait for an answer before asking who blocks it."""
SHARDS = 100
"""Every schedule has a shard of its own, so that it begins clean; then all tables are emptied."""

# Everything that what happens next can depend on, and no time: of the due times their order, of a
# lease's end whether it has come.
STATE = """
SELECT 'scheduled', job_id, token, attempts, row_number() OVER (ORDER BY run_at), '', ''
FROM {schema}.scheduled WHERE shard = %(shard)s
UNION ALL SELECT 'ready', job_id, token, attempts, row_number() OVER (ORDER BY due_at), '', ''
FROM {schema}.ready WHERE shard = %(shard)s
UNION ALL SELECT 'leases', job_id, token, attempt,
                 row_number() OVER (ORDER BY lease_expires_at), worker,
                 CASE WHEN lease_expires_at <= clock_timestamp() THEN 'expired' ELSE '' END
FROM {schema}.leases WHERE shard = %(shard)s
UNION ALL SELECT 'record', job_id, token, 0, 0, outcome, ''
FROM {schema}.commit_records WHERE shard = %(shard)s
UNION ALL SELECT 'attempt', job_id, token, attempt, 0, outcome, ''
FROM {schema}.attempts WHERE shard = %(shard)s
UNION ALL SELECT 'refusal', job_id, token, 0, 0, stage, reason
FROM {schema}.refusals WHERE shard = %(shard)s
UNION ALL SELECT 'ledger', job_id, token, 0, 0, worker, ''
FROM explorer_ledger WHERE shard = %(shard)s
ORDER BY 1, 2, 3, 4, 5, 6, 7
"""

EXPIRE = "UPDATE {schema}.leases SET lease_expires_at = '2000-01-01' WHERE shard = %(shard)s"

EMPTY = """
TRUNCATE {schema}.jobs, {schema}.scheduled, {schema}.ready, {schema}.leases,
         {schema}.commit_records, {schema}.attempts, {schema}.refusals, {schema}.workers,
         explorer_ledger
"""

RESTART_IDS = "SELECT setval('{schema}.jobs_id_seq', 1, false)"


class Row(NamedTuple):
    table: str
    job: int
    token: int
    attempt: int
    position: int
    what: str
    more: str


State = tuple[Row, ...]


@dataclass(slots=True)
class Slot:
    """One actor's connection."""

    connection: psycopg.AsyncConnection[Any]
    pid: int
    is_open: bool = False
    """Whether a transaction is."""
    count: int = 0
    """How many rows the last statement returned, or wrote."""

    async def run(self, statement: Statement) -> Rows:
        if not self.is_open:
            self._say("BEGIN")
            self.is_open = True
        async with self.connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(statement.sql.encode(), statement.params)
            self.count = cursor.rowcount
            return await cursor.fetchall() if cursor.description else ()

    def end(self, how: str) -> None:
        if self.is_open:
            self._say(how)
            self.is_open = False

    def _say(self, command: str) -> None:
        """BEGIN, COMMIT and ROLLBACK wait for nobody; psycopg would forget its prepared statements
        at a ROLLBACK that it sees."""
        result = self.connection.pgconn.exec_(command.encode())
        assert result.status == ExecStatus.COMMAND_OK, result.get_error_message()


class Stage:
    """A PostgreSQL database, emptied again and again. Use `open_stage`."""

    def __init__(self, conninfo: str, watcher: psycopg.AsyncConnection[Any], schema: str) -> None:
        self._conninfo = conninfo
        self._watcher = watcher
        self.schema = schema
        self.slots: list[Slot] = []
        self.statements = 0
        self.shard = 0

    @classmethod
    async def open(cls, url: str, actors: int) -> Self:
        """Raises what psycopg does. The database must be migrated and of no other use."""
        info = conninfo(parse_url(url))
        stage = cls(info, await _connect(info), "jobq")
        await stage.sql(LEDGER)
        for _ in range(actors):
            stage.slots.append(await stage._new_slot())
        return stage

    async def begin(self) -> int:
        """Make it clean; return the shard to play on, whose first job will have the id 1."""
        if self.shard % SHARDS == 0:
            self.shard = 0
            await self.sql(EMPTY)
        self.shard += 1
        await self.sql(RESTART_IDS)
        return self.shard

    async def drop(self, number: int) -> None:
        """Drop an actor's connection as a crash of its process does, and wait for its end."""
        slot = self.slots[number]
        await slot.connection.close()
        # The server tells nobody that a client left.
        gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %(pid)s)"
        while (await self.sql(gone, pid=slot.pid))[0][0] is False:
            pass
        self.slots[number] = await self._new_slot()

    async def state(self, shard: int) -> State:
        return tuple(Row(*row) for row in await self.sql(STATE, shard=shard))

    async def expire(self, shard: int) -> None:
        await self.sql(EXPIRE, shard=shard)

    async def is_blocked(self, slot: Slot) -> bool:
        rows = await self.sql("SELECT cardinality(pg_blocking_pids(%(pid)s)) > 0", pid=slot.pid)
        return bool(rows[0][0])

    async def sql(self, statement: str, **params: object) -> Rows:
        """Run a statement on the watcher's connection, in a transaction of its own."""
        sql = statement.replace("{schema}", self.schema)
        cursor = await self._watcher.execute(sql.encode(), params or None)
        return await cursor.fetchall() if cursor.description else ()

    async def close(self) -> None:
        for slot in self.slots:
            await slot.connection.close()
        await self._watcher.close()

    async def _new_slot(self) -> Slot:
        connection = await _connect(self._conninfo)
        # As a worker's own: EXCHANGE takes longer to plan than to run.
        await connection.execute(PLAN_ONCE)
        connection.adapters.register_dumper(int, Int8Dumper)
        return Slot(connection, connection.info.backend_pid)


@asynccontextmanager
async def open_stage(url: str, actors: int) -> AsyncIterator[Stage]:
    stage = await Stage.open(url, actors)
    try:
        yield stage
    finally:
        await stage.close()


def books_of(state: State, cast: Cast, max_attempts: int) -> Books:
    """The state as the checker of histories reads it."""
    of: dict[str, list[Row]] = {}
    for row in state:
        of.setdefault(row.table, []).append(row)
    return Books(
        jobs=[JobRow(job, f"job {job}", cast.task, max_attempts) for job in cast.jobs],
        places=[
            Place(table, row.job, row.token)
            for table in ("scheduled", "ready", "leases")
            for row in of.get(table, ())
        ],
        records=[RecordRow(row.job, row.what, row.token) for row in of.get("record", ())],
        attempts=[
            AttemptRow(row.job, row.token, row.attempt, row.what) for row in of.get("attempt", ())
        ],
        refusals=[
            RefusalRow(row.job, row.token, row.what, row.more) for row in of.get("refusal", ())
        ],
        ledger=[LedgerRow(row.job, row.token, 0) for row in of.get("ledger", ())],
    )


async def _connect(info: str) -> psycopg.AsyncConnection[Any]:
    connection = await psycopg.AsyncConnection.connect(info, autocommit=True, prepare_threshold=0)
    # A deadlock is found by the explorer, which sees that nobody can move.
    await connection.execute("SET deadlock_timeout = '1h'")
    await connection.execute("SET synchronous_commit = off")
    return connection

"""What endangers the promise in this database, and whether its rows keep it.

Each check yields findings: what was looked at, whether it is as it has to be, and what to do if it
is not. Settings are those that a plain session would get; what jobq's own connections set for
themselves (`synchronous_commit`, limits for silent transactions) protects jobq's transactions, and
nobody else's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import func, literal, select

from jobq.database.base import Database
from jobq.database.postgres import PostgresDatabase
from jobq.errors import JobqError
from jobq.invariants import INVARIANTS, violating
from jobq.protocol.states import State
from jobq.revisions import revisions
from jobq.store.listing import all_workers
from jobq.store.pauses import all_queues
from jobq.store.portable import now, seconds_later
from jobq.store.recent import open_counts
from jobq.store.step import Statement, Step

if TYPE_CHECKING:
    from jobq.client import JobQueue

DRIFT_S = 1.0
LONG_S = 300.0
"""A transaction, an expired lease or a due job of so long ago is worth a word."""
LEAST_FREE_CONNECTIONS = 5
MOST_DEAD_SHARE = 0.5
DEAD_ROWS = 100_000
SHOWN = 3


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    level: Level
    message: str
    remedy: str | None = None


def examine(queue: JobQueue) -> Iterator[Finding]:
    """Run every check on the queue's database, the cheap ones first. Blocks; changes nothing.

    When the database cannot be reached or is not migrated, that is the only finding.
    """
    try:
        database = queue.database
    except JobqError as error:
        yield Finding("database", Level.FAILURE, str(error))
        return
    yield Finding("database", Level.OK, f"{queue.url!r}, revision {revisions()[-1]}")
    yield from _clock(database)
    if isinstance(database, PostgresDatabase):
        with closing(database.connect()) as connection:
            for check in (_pooler, _durability, _role, _connections, _snapshots, _vacuum):
                yield from check(database, connection)
    else:
        yield from _on_sqlite(database)
    for look in (_workers, _leases, _left_behind, _ambiguous):
        yield from look(database)
    for invariant in INVARIANTS:
        found = database.run(violating(database.store, invariant, database.schema))
        if found:
            rows = ", ".join(invariant.shown(row) for row in found[:SHOWN])
            yield Finding(
                invariant.id,
                Level.FAILURE,
                f"violated: {invariant.claim}, and here {'is' if len(found) == 1 else 'are'} {rows}"
                + (" and others" if len(found) > SHOWN else ""),
                "something else than jobq changed its tables, or jobq has a bug: stop what writes "
                "there, keep a copy, look at `jobq jobs show ID`, and report it",
            )
        else:
            yield Finding(invariant.id, Level.OK, invariant.claim)


def _clock(database: Database) -> Iterator[Finding]:
    began_s = time.time()
    there_s = database.run(_database_time(database)).timestamp()
    here_s = (began_s + time.time()) / 2
    drift_s = there_s - here_s
    if abs(drift_s) < DRIFT_S:
        yield Finding("clock", Level.OK, f"{abs(drift_s) * 1000:.0f} ms from the database's")
    else:
        yield Finding(
            "clock",
            Level.WARNING,
            f"this machine's is {abs(drift_s):.1f} s {'behind' if drift_s > 0 else 'ahead of'} the "
            "database's. Leases go by the database's alone; times that you compute here (run_at, "
            "deadlines) do not",
            "synchronise both with NTP, or pass delays instead of times",
        )


def _database_time(database: Database) -> Step[datetime]:
    ((at,),) = yield from database.store.portable.run(select(now().label("at")))
    moment: datetime = at
    return moment


Session = psycopg.Connection[Any]


def _pooler(database: PostgresDatabase, connection: Session) -> Iterator[Finding]:
    """A pooler tells a client of a process that is not the server's."""
    ((pid,),) = _rows(connection, "SELECT pg_backend_pid()")
    is_behind_one = pid != connection.info.backend_pid
    if is_behind_one and not database.is_pooled:
        yield Finding(
            "pooler",
            Level.FAILURE,
            "there is a pooler (PgBouncer) between here and the server, and jobq was not told: in "
            "transaction mode its settings, plans and notifications get lost",
            "pass JobQueue(pooled=True), --pooled or JOBQ_POOLED=1; or the server's own address",
        )
    elif is_behind_one:
        yield Finding("pooler", Level.OK, "behind a pooler, as was said: workers poll")
    elif database.is_pooled:
        yield Finding(
            "pooler",
            Level.WARNING,
            "pooled=True, and the server answers itself: workers poll where they could be notified",
            "leave out pooled=True",
        )
    else:
        yield Finding("pooler", Level.OK, "none")


def _durability(database: PostgresDatabase, connection: Session) -> Iterator[Finding]:
    # What a session gets that sets nothing: jobq's own have set some of them.
    settings = dict(
        _rows(
            connection,
            "SELECT name, reset_val FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', "
            "'synchronous_commit', 'idle_in_transaction_session_timeout')",
        )
    )
    for name in ("fsync", "full_page_writes"):
        if settings[name] == "off":
            yield Finding(
                "durability",
                Level.FAILURE,
                f"{name} is off: a crash of the server may undo or tear what was committed, "
                "records and effects alike",
                f"set {name} = on in postgresql.conf and reload",
            )
    if settings["synchronous_commit"] == "off":
        yield Finding(
            "durability",
            Level.WARNING,
            "synchronous_commit is off by default: jobq's own transactions switch it on, and those "
            "of yours that `enqueue_in` may be lost in a crash after they were acknowledged",
            "set synchronous_commit = on for the database or the role",
        )
    elif settings["fsync"] == settings["full_page_writes"] == "on":
        yield Finding(
            "durability", Level.OK, f"synchronous_commit {settings['synchronous_commit']}"
        )
    if settings["idle_in_transaction_session_timeout"] == "0":
        ((name,),) = _rows(
            connection, "SELECT '\"' || replace(current_database(), '\"', '\"\"') || '\"'"
        )
        yield Finding(
            "idle transactions",
            Level.WARNING,
            "idle_in_transaction_session_timeout is 0: sessions of other programs that forget a "
            "transaction keep its locks and its snapshot for ever; jobq's workers set their own",
            f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '10min'",
        )
    else:
        yield Finding("idle transactions", Level.OK, "are ended by the server")


def _role(database: PostgresDatabase, connection: Session) -> Iterator[Finding]:
    ((is_standby, is_read_only),) = _rows(
        connection, "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool"
    )
    if is_standby or is_read_only:
        what = "a standby" if is_standby else "read-only"
        yield Finding(
            "server",
            Level.FAILURE,
            f"it is {what}: nothing can be enqueued or run",
            "name the primary, as with target_session_attrs=read-write and several hosts",
        )
    else:
        version = connection.info.parameter_status("server_version")
        yield Finding("server", Level.OK, f"PostgreSQL {version}, a primary")


def _connections(database: PostgresDatabase, connection: Session) -> Iterator[Finding]:
    ((used, most),) = _rows(
        connection,
        "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), "
        "current_setting('max_connections')::int"
        " - current_setting('superuser_reserved_connections')::int",
    )
    if most - used < LEAST_FREE_CONNECTIONS:
        yield Finding(
            "connections",
            Level.WARNING,
            f"{used} of {most} are in use: a worker opens 2, and one for each effect at once",
            "raise max_connections, lower --concurrency, or put PgBouncer before the server",
        )
    else:
        yield Finding("connections", Level.OK, f"{used} of {most} in use")


def _snapshots(database: PostgresDatabase, connection: Session) -> Iterator[Finding]:
    oldest = _rows(
        connection,
        "SELECT pid, coalesce(usename, ''), state, "
        "extract(epoch FROM clock_timestamp() - xact_start)::float8 "
        "FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL "
        "AND pid <> pg_backend_pid() AND backend_type = 'client backend' "
        "ORDER BY xact_start LIMIT 1",
    )
    long_ones = [row for row in oldest if row[3] > LONG_S]
    for pid, user, state, age_s in long_ones:
        yield Finding(
            "snapshots",
            Level.WARNING,
            f"session {pid} of {user!r} ({state}) is in one transaction for {age_s:.0f} s: dead "
            "rows pile up behind it, in the queue's tables too",
            f"end it: SELECT pg_terminate_backend({pid})",
        )
    if not long_ones:
        yield Finding("snapshots", Level.OK, "no transaction is old")


def _vacuum(database: PostgresDatabase, connection: Session) -> Iterator[Finding]:
    ((is_on,),) = _rows(connection, "SELECT current_setting('autovacuum')::bool")
    if not is_on:
        yield Finding(
            "vacuum",
            Level.FAILURE,
            "autovacuum is off: dead rows at the head of the queue make every claim slower",
            "set autovacuum = on and reload",
        )
        return
    bloated = [
        (name, dead)
        for name, live, dead in _rows(
            connection,
            "SELECT relname, n_live_tup, n_dead_tup FROM pg_stat_user_tables WHERE schemaname = %s",
            database.schema,
        )
        if dead > DEAD_ROWS and dead > MOST_DEAD_SHARE * (live + dead)
    ]
    for name, dead in bloated:
        yield Finding(
            "vacuum",
            Level.WARNING,
            f"table {name} has {dead:,} dead rows",
            f'look for old snapshots; then VACUUM "{database.schema}".{name}',
        )
    if not bloated:
        yield Finding("vacuum", Level.OK, "autovacuum is on, and keeps up")


def _on_sqlite(database: Database) -> Iterator[Finding]:
    ((journal,),) = database.run(_ask("PRAGMA journal_mode"))
    ((synchronous,),) = database.run(_ask("PRAGMA synchronous"))
    if journal != "wal":
        yield Finding(
            "durability",
            Level.WARNING,
            f"journal_mode is {journal}: readers and writers wait for each other",
            "jobq sets WAL when it opens the file: something else has set it back",
        )
    elif synchronous < 2:
        yield Finding(
            "durability", Level.FAILURE, "synchronous is off", "leave it at jobq's own, FULL"
        )
    else:
        yield Finding("durability", Level.OK, "WAL, synchronous FULL")


def _workers(database: Database) -> Iterator[Finding]:
    workers = database.run(all_workers(database.store.portable))
    alive = [one for one in workers if one.state == "alive"]
    lost = [one for one in workers if one.state == "lost"]
    queues = database.run(all_queues(database.store.portable))
    waiting = [one for one in queues if one.ready and one.paused_at is None]
    if waiting and not alive:
        yield Finding(
            "workers",
            Level.WARNING,
            f"none is alive, and {sum(one.ready for one in waiting)} jobs are due",
            "start one: jobq worker MODULE:APP",
        )
    else:
        yield Finding("workers", Level.OK, f"{len(alive)} alive")
    if lost:
        yield Finding(
            "workers",
            Level.WARNING,
            f"{len(lost)} {'was' if len(lost) == 1 else 'were'} lost without a word"
            f"{':' if len(lost) == 1 else ', the last of them'} {lost[0].id}",
            "look at their logs: killed, out of memory, or cut off? Their jobs are recovered",
        )
    served = [one.about.queues for one in alive if one.about is not None]
    if served and None not in served:
        names = {name for queues in served if queues is not None for name in queues}
        for one in waiting:
            if one.name not in names:
                yield Finding(
                    "workers",
                    Level.WARNING,
                    f"queue {one.name!r} has {one.ready} due jobs, and no worker serves it",
                    f"start one with --queues {one.name}",
                )


def _leases(database: Database) -> Iterator[Finding]:
    count = database.run(_overdue(database, "leases", "lease_expires_at"))
    if count:
        yield Finding(
            "recovery",
            Level.WARNING,
            f"{count} leases have been over for more than {LONG_S / 60:.0f} minutes, and nobody "
            "recovered them: there is no worker, or a session keeps their rows locked",
            "start a worker, or jobq reconcile; then look for sessions idle in transaction",
        )
    else:
        yield Finding("recovery", Level.OK, "no lease is long over")


def _left_behind(database: Database) -> Iterator[Finding]:
    count = database.run(_overdue(database, "scheduled", "run_at"))
    if count:
        yield Finding(
            "promotion",
            Level.WARNING,
            f"{count} scheduled jobs have been due for more than {LONG_S / 60:.0f} minutes",
            "start a worker: each sees to all of them",
        )
    else:
        yield Finding("promotion", Level.OK, "no scheduled job is long due")


def _ambiguous(database: Database) -> Iterator[Finding]:
    counts = database.run(open_counts(database.store.portable))
    for state, remedy in (
        (State.AMBIGUOUS, "decide about them: `app.ambiguous`, or the dashboard"),
        (State.DEAD, "look at them: jobq dead list"),
    ):
        if counts[state]:
            yield Finding(
                f"{state} jobs", Level.WARNING, f"{counts[state]} wait for a person", remedy
            )
        else:
            yield Finding(f"{state} jobs", Level.OK, "none")


def _overdue(database: Database, table: str, column: str) -> Step[int]:
    portable = database.store.portable
    rows = getattr(portable.tables, table)
    ((count,),) = yield from portable.run(
        select(func.count()).where(
            rows.c.shard == portable.shard,
            rows.c[column] < seconds_later(now(), literal(-LONG_S)),
        )
    )
    return int(count)


def _ask(sql: str) -> Step[Any]:
    return (yield Statement(sql, {}))


def _rows(connection: Session, sql: str, *params: object) -> list[Any]:
    return connection.execute(sql.encode(), params or None).fetchall()

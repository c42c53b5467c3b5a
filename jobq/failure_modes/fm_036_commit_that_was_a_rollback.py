"""FM_036: COMMIT is answered with ROLLBACK, and every driver reports success."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import psycopg
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from jobq.commit import commit_effect_idempotent
from jobq.database.url import conninfo
from jobq.errors import EffectRolledBack
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.naive import naive_store
from jobq.failure_modes.shop import Shop
from jobq.protocol.values import Lease

Execute = Callable[[str], Any]
Transaction = Callable[[Shop, Lease], AbstractContextManager[Execute]]
"""Opens an effect's transaction for a lease, gives a way to run statements, and commits."""


@contextmanager
def psycopg_commit(shop: Shop, _: Lease) -> Iterator[Execute]:
    with psycopg.connect(conninfo(shop.database.url)) as connection:
        yield lambda statement: connection.execute(statement.encode())
        connection.commit()


@contextmanager
def psycopg_transaction(shop: Shop, _: Lease) -> Iterator[Execute]:
    with (
        psycopg.connect(conninfo(shop.database.url), autocommit=True) as connection,
        connection.transaction(),
    ):
        yield lambda statement: connection.execute(statement.encode())


@contextmanager
def sqlalchemy_begin(shop: Shop, _: Lease) -> Iterator[Execute]:
    with create_engine(shop.database.url, poolclass=NullPool).begin() as connection:
        yield lambda statement: connection.execute(text(statement))


DRIVERS: dict[str, Transaction] = {
    "psycopg's commit()": psycopg_commit,
    "psycopg's transaction()": psycopg_transaction,
    "SQLAlchemy's begin()": sqlalchemy_begin,
}


def boundary_of(kind: type[Any]) -> Transaction:
    @contextmanager
    def boundary(shop: Shop, lease: Lease) -> Iterator[Execute]:
        with commit_effect_idempotent(shop.database, lease, kind) as handle:
            is_driver = kind is psycopg.Connection
            yield lambda sql: handle.execute(sql.encode() if is_driver else text(sql))

    return boundary


BOUNDARIES: dict[str, Transaction] = {
    "psycopg.Connection": boundary_of(psycopg.Connection),
    "sqlalchemy.Connection": boundary_of(Connection),
    "Session": boundary_of(Session),
}


def charge(execute: Execute, lease: Lease, worker: str, *, goes_wrong: bool) -> None:
    """The handler. It also writes a statistic, and what goes wrong with that is not important."""
    execute(f"INSERT INTO ledger VALUES ({lease.job_id}, '{worker}')")
    if goes_wrong:
        with suppress(psycopg.Error, SQLAlchemyError):
            execute("INSERT INTO statistics VALUES (1)")  # there is no such table


def play(shop: Shop, transactions: dict[str, Transaction] = BOUNDARIES) -> Finding:
    """One job for each way to commit; in A's attempt the handler swallows a database error."""
    facts = {name: play_one(shop, opened) for name, opened in transactions.items()}
    lost = [name for name, seen in facts.items() if not seen["charged_by"]]
    return Finding(
        is_harmed=bool(lost),
        detail=f"done and never charged, by {', '.join(lost)}"
        if lost
        else "each attempt was told that it was rolled back, and the retry charged",
        seen=facts,
    )


def play_one(shop: Shop, transaction: Transaction) -> dict[str, Any]:
    job_id = shop.enqueue()
    told = attempt(shop, transaction, shop.claim_one("A"), "A", goes_wrong=True)
    shop.promote()
    for claimed in shop.claim("B"):
        attempt(shop, transaction, claimed.lease, "B", goes_wrong=False)
    charged = shop.sql(f"SELECT worker FROM ledger WHERE job_id = {job_id}")
    return {
        "a_was_told": told,
        "charged_by": [worker for (worker,) in charged],
        "state": shop.state(job_id),
    }


def attempt(
    shop: Shop, transaction: Transaction, lease: Lease, worker: str, *, goes_wrong: bool
) -> str:
    """What a worker does with it: no error is a success."""
    try:
        with transaction(shop, lease) as execute:
            charge(execute, lease, worker, goes_wrong=goes_wrong)
    except EffectRolledBack:
        shop.fail(lease)
        return "rolled back"
    shop.finalize(lease)
    return "success"


def reproduce(shop: Shop) -> Finding:
    """On transactions as drivers give them, and a worker that believes them."""
    shop.weaken(naive_store)
    return play(shop, DRIVERS)


FM = FailureMode(
    id="FM_036",
    title="COMMIT that was a ROLLBACK",
    invariants=("I2", "I3"),
    reproduce=reproduce,
    prevent=play,
    not_on_sqlite="an error undoes its own statement and the transaction goes on, so COMMIT "
    "commits the rest or fails",
)

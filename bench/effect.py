"""Jobs with one transactional effect each, beside the bare effect transaction.

Measured: a real `Worker` at concurrency 10 and 32 that drains jobs whose handler takes a
`psycopg.Connection` (a SQLAlchemy `Session` with --session), updates an account and writes a
ledger. Beside: the same function in the same transaction from as many threads, each on a
connection it keeps.

Fair because both run the same statements through the same driver, in one Python process of as many
threads, and wait for as many commits. The ratio shows all that the queue adds: claims, leases,
commit records, finalizing, and the worker's own work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from time import perf_counter
from typing import Any

import psycopg
from sqlalchemy import BigInteger, Column, MetaData, Table, create_engine, insert, text, update
from sqlalchemy.orm import Session

from bench.harness import Figure, Measure, Place, Progress, alternate, compare, drain
from jobq import JobQueue
from jobq.database.url import parse_url

Bare = Callable[[str, Iterable[int], Callable[[], None]], None]
"""Charges the orders in the database of a URL, each in its own transaction, and ticks."""

ORDERS = 5_000
# As many accounts as orders: no two transactions ever want the same row.
metadata = MetaData()
accounts, ledger = (
    Table(name, metadata, *(Column(column, BigInteger, nullable=False) for column in columns))
    for name, columns in (("accounts", ("balance",)), ("ledger", ("order_id", "cents")))
)
accounts.append_column(Column("id", BigInteger, primary_key=True, autoincrement=False))


def charge(db: psycopg.Connection[Any], order_id: int) -> None:
    db.execute("UPDATE accounts SET balance = balance - 999 WHERE id = %s", (order_id,))
    db.execute("INSERT INTO ledger (order_id, cents) VALUES (%s, 999)", (order_id,))


def bare(url: str, order_ids: Iterable[int], tick: Callable[[], None]) -> None:
    with psycopg.connect(url) as db:
        for order_id in order_ids:
            with db.transaction():
                charge(db, order_id)
            tick()


def charge_in_session(db: Session, order_id: int) -> None:
    db.execute(
        update(accounts).where(accounts.c.id == order_id).values(balance=accounts.c.balance - 999)
    )
    db.execute(insert(ledger).values(order_id=order_id, cents=999))


def bare_in_session(url: str, order_ids: Iterable[int], tick: Callable[[], None]) -> None:
    engine = create_engine(parse_url(url))
    for order_id in order_ids:
        with Session(engine) as db, db.begin():
            charge_in_session(db, order_id)
        tick()
    engine.dispose()


def run(place: Place, repeat: int, *, session: bool = False) -> list[Figure]:
    handler, peer = (charge_in_session, bare_in_session) if session else (charge, bare)
    measures: dict[str, Measure] = {}
    for number in (10, 32):
        measures[f"effect jobs, concurrency {number}"] = partial(drain_charges, handler, number)
        measures[f"bare transaction, {number} threads"] = partial(charge_bare, peer, number)
    names = list(measures)
    samples = alternate(place, measures, repeat)
    return [compare(samples, *names[:2]), compare(samples, *names[2:])]


def drain_charges(handler: Callable[..., None], concurrency: int, url: str) -> float:
    app, progress = JobQueue(url), Progress(ORDERS)

    @app.task(name="bench.charge")
    @wraps(handler)  # with its annotations, by which the worker knows what to give it
    def ticking(db: Any, order_id: int) -> None:
        handler(db, order_id)
        progress.tick()

    open_shop(url)
    requests = [ticking.request(order_id=order_id) for order_id in range(ORDERS)]
    rate = drain(app, requests, progress, concurrency=concurrency)
    check_ledger(url)
    return rate


def charge_bare(peer: Bare, threads: int, url: str) -> float:
    progress = Progress(ORDERS)
    open_shop(url)
    with ThreadPoolExecutor(threads) as pool:
        shares = [range(number, ORDERS, threads) for number in range(threads)]
        list(pool.map(lambda share: peer(url, share, progress.tick), shares))
        ended_s = perf_counter()
    check_ledger(url)
    return progress.rate(ended_s)


def open_shop(url: str, orders: int = ORDERS) -> None:
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(insert(accounts), [{"id": n, "balance": 0} for n in range(orders)])
    engine.dispose()


def check_ledger(url: str) -> None:
    """Each order was charged once: a rate at which work is lost or done twice is no rate."""
    charges = text("SELECT count(*), count(DISTINCT order_id) FROM ledger")
    with create_engine(parse_url(url)).connect() as connection:
        assert connection.execute(charges).one() == (ORDERS, ORDERS)

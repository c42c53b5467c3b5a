"""Jobs on SQLite: effects beside the bare effect transaction, no-ops in batches beside one by one.

Measured: a real `Worker` that drains jobs whose handler takes a `sqlite3.Connection`, one at a time
and ten at a time (the default). Beside: the same function between BEGIN IMMEDIATE and COMMIT, from
one thread on a connection it keeps. That is the most SQLite can do: it has one writer at a time.

And the bare protocol loop over jobs that do nothing, 100 in each exchange. Beside: one in each.

Fair because both write a file of their own on the same disk in the same modes, WAL and
synchronous=FULL, in which each commit waits for the disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from functools import partial

from bench import noop
from bench.effect import charge_bare, drain_charges
from bench.harness import Figure, Measure, Place, alternate, compare
from jobq.database.sqlite import prepare

BARE = "bare transaction, 1 thread"


def charge(db: sqlite3.Connection, order_id: int) -> None:
    db.execute("UPDATE accounts SET balance = balance - 999 WHERE id = ?", (order_id,))
    db.execute("INSERT INTO ledger (order_id, cents) VALUES (?, 999)", (order_id,))


def bare(url: str, order_ids: Iterable[int], tick: Callable[[], None]) -> None:
    db = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    prepare(db)
    for order_id in order_ids:
        db.execute("BEGIN IMMEDIATE")
        charge(db, order_id)
        db.execute("COMMIT")
        tick()
    db.close()


def run(place: Place, repeat: int) -> list[Figure]:
    measures: dict[str, Measure] = {BARE: partial(charge_bare, bare, 1)}
    for number in (1, 10):
        measures[f"effect jobs, concurrency {number}"] = partial(drain_charges, charge, number)
    effects = list(measures)[1:]
    for batch in (100, 1):
        measures[f"no-op drain, batches of {batch}"] = partial(noop.drain_bare, batch)
    samples = alternate(place, measures, repeat)
    batched = compare(samples, *list(measures)[-2:])
    return [*(compare(samples, name, BARE) for name in effects), batched]

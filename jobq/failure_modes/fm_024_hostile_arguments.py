"""FM_024: arguments that cannot be stored, or that cannot be read back."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg

from jobq.client import JobQueue
from jobq.database.url import conninfo
from jobq.errors import InvalidArguments, JobqError
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import TASK, Shop
from jobq.failure_modes.transactions import wait_until
from jobq.protocol.states import State

ROUNDS = 3
REFUSED = "refused where it is enqueued"
ARRIVED = "arrived as it is"
UNREADABLE = '{"value": ' + "9" * 5_000 + "}"
"""A number that both databases store and Python's `json` does not read, by its limit of digits."""

LARGEST = 1_000_000


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: dict[str, Any] = {
    "NUL": "a\x00b",
    "lone surrogate": "a\ud800b",
    "NaN": math.nan,
    "infinity": -math.inf,
    "5,000 digits": 10**5_000,
    "10,000 levels": nested(10_000),
    "bytes": b"abc",
    "numbers as keys": {1: "a"},
    "a tuple": (1, 2),
    "30 MB": "x" * 30_000_000,
}


@dataclass(frozen=True, slots=True)
class Producer:
    """Enqueues a job with this value, and runs what it has enqueued."""

    enqueue: Callable[[Shop, Any], object]
    run: Callable[[Shop], object]


# -- json.dumps at one end, json.loads at the other


def dump(shop: Shop, value: Any) -> None:
    shop.enqueue(args=json.dumps({"value": value}))


def load_a_batch(shop: Shop) -> None:
    """Claims, reads all of the batch and then runs it; what it cannot read ends its round."""
    for _ in range(ROUNDS):
        claimed = shop.claim("A", 10)
        try:
            values = [json.loads(job.args)["value"] for job in claimed]
        except (ValueError, RecursionError):
            for job in claimed:
                shop.recover(job.lease)
            continue
        for job, _ in zip(claimed, values, strict=True):
            shop.complete(job.lease)


# -- jobq


def enqueue_checked(shop: Shop, value: Any) -> None:
    app = JobQueue(shop.url, schema=shop.schema)
    try:
        app.task(name=TASK)(take).enqueue(value)
    finally:
        app.close()


def run_worker(shop: Shop) -> None:
    app = JobQueue(shop.url, schema=shop.schema)
    app.task(name=TASK, max_attempts=1)(take)
    with app.worker(poll_s=0.02):
        wait_until(lambda: not shop.sql("SELECT 1 FROM jobq.ready"), "every job to be claimed")
    app.close()


def take(value: Any) -> None:
    """A handler whose signature says nothing of what it takes."""


NAIVE = Producer(dump, load_a_batch)
JOBQ = Producer(enqueue_checked, run_worker)


def play(shop: Shop, producer: Producer = JOBQ) -> Finding:
    """Each hostile value is enqueued; then comes a job whose arguments somebody else wrote."""
    fates = {name: _fate_of(shop, producer, value) for name, value in HOSTILE.items()}
    neighbours = _neighbours_of_an_unreadable_job(shop, producer)
    taken = [name for name, fate in fates.items() if fate not in (REFUSED, ARRIVED)]
    stuck = sum(state is not State.DONE for state in neighbours)
    return Finding(
        is_harmed=bool(taken or stuck),
        detail=f"taken, and never the same again: {', '.join(taken)}; "
        f"{stuck} of {len(neighbours)} jobs beside an unreadable one were not run"
        if taken or stuck
        else f"all {len(fates)} were refused where they were enqueued; a job that could not be "
        "read failed by itself",
        seen={"fates": fates, "neighbours": neighbours},
    )


def _fate_of(shop: Shop, producer: Producer, value: Any) -> str:
    try:
        producer.enqueue(shop, value)
    except (InvalidArguments, TypeError, ValueError, RecursionError):
        return REFUSED
    except JobqError as error:
        return f"refused by the database: {type(error).__name__}"
    (claimed,) = shop.claim("A")
    shop.complete(claimed.lease)
    try:
        arrived = json.loads(claimed.args)["value"]
    except (ValueError, RecursionError) as error:
        return f"cannot be read: {type(error).__name__}"
    if repr(arrived) != repr(value):
        return "arrived as another value"
    if len(claimed.args) > LARGEST:
        return "is read whole by every claim"
    return ARRIVED if _can_be_used(shop, arrived) else "cannot be written by its handler"


def _can_be_used(shop: Shop, value: Any) -> bool:
    """Whether a handler can write the text that it was given to a table of its own."""
    if not isinstance(value, str):
        return True
    try:
        if shop.is_sqlite:
            with closing(sqlite3.connect(str(shop.database.url.database))) as file:
                file.execute("INSERT INTO ledger VALUES (0, ?)", (value,))
        else:
            with psycopg.connect(conninfo(shop.database.url)) as connection:
                connection.execute("INSERT INTO ledger VALUES (0, %s)", (value,))
    except (psycopg.DataError, UnicodeEncodeError):
        return False
    return True


def _neighbours_of_an_unreadable_job(shop: Shop, producer: Producer) -> list[State]:
    job_ids = [shop.enqueue(args='{"value": 1}') for _ in range(3)]
    shop.sql(f"UPDATE jobq.jobs SET args = '{UNREADABLE}' WHERE id = {job_ids[1]}")
    producer.run(shop)
    return [shop.state(job_id) for job_id in (job_ids[0], job_ids[2])]


def reproduce(shop: Shop) -> Finding:
    """On `json.dumps` where jobs are enqueued, and `json.loads` where they are claimed."""
    return play(shop, NAIVE)


FM = FailureMode(
    id="FM_024",
    title="hostile or impossible arguments",
    invariants=("I6",),
    reproduce=reproduce,
    prevent=play,
)

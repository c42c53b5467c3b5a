"""FM_024: arguments that cannot be stored, or that cannot be read back.

A customer's name has a NUL in it, a ratio is NaN, a key is a number, a document is attached. Where
arguments are dumped and loaded, some of it is refused by the database in the middle of the caller's
transaction, some arrives as something else, and some is stored and can never be read again: then
the claim that reads a batch fails, and the jobs beside it are not run either.

The fix is at both ends (I6): whatever would not arrive as it is, is refused where it is enqueued,
before anything is sent; and arguments are read inside the job's own error boundary, so that what
was stored by other means fails its job alone.
"""

from __future__ import annotations

import math
from typing import Any

import psycopg
import pytest

from jobq import ArgumentsTooLarge, InvalidArguments, JobQueue
from jobq.failure_modes.fm_024_hostile_arguments import (
    ARRIVED,
    HOSTILE,
    NAIVE,
    REFUSED,
    play,
    reproduce,
    run_worker,
    take,
)
from jobq.failure_modes.shop import TASK, Shop
from jobq.protocol.states import State


def test_reproduces_arguments_that_are_never_the_same_again(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.is_harmed
    fates = found.seen["fates"]
    assert fates["lone surrogate"] == "cannot be written by its handler"
    assert fates["numbers as keys"] == fates["a tuple"] == "arrived as another value"
    assert fates["30 MB"] == "is read whole by every claim"
    if shop.is_sqlite:  # it compares a NUL as any character, and knows no JSON type
        assert fates["NUL"] == fates["NaN"] == ARRIVED
    else:
        assert fates["NUL"] == "cannot be written by its handler"
        assert fates["NaN"] == "refused by the database: InvalidOption"
    assert State.DONE not in found.seen["neighbours"], "beside one that cannot be read"


def test_reproduces_a_callers_transaction_that_is_lost(postgres_shop: Shop) -> None:
    """The database's refusal comes in the middle of it, and takes the order along."""
    postgres_shop.sql("CREATE TABLE orders (id int)")
    with psycopg.connect(postgres_shop.url) as connection:
        connection.execute("INSERT INTO orders VALUES (1)")
        with pytest.raises(psycopg.DataError):
            connection.execute("SELECT '{\"ratio\": NaN}'::json")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("INSERT INTO orders VALUES (2)")
    assert postgres_shop.sql("SELECT id FROM orders") == []


def test_prevented_by_refusing_them_where_they_are_enqueued(shop: Shop) -> None:
    found = play(shop)

    assert not found.is_harmed
    assert found.seen["fates"] == dict.fromkeys(HOSTILE, REFUSED)
    assert found.seen["neighbours"] == [State.DONE, State.DONE]
    assert shop.sql("SELECT count(*) FROM jobq.jobs") == [(3,)], "and none of them was enqueued"


def test_prevented_and_the_callers_transaction_goes_on(postgres_shop: Shop) -> None:
    postgres_shop.sql("CREATE TABLE orders (id int)")
    app = JobQueue(postgres_shop.url)
    task = app.task(name=TASK)(take)
    with psycopg.connect(postgres_shop.url) as connection:
        connection.execute("INSERT INTO orders VALUES (1)")
        with pytest.raises(InvalidArguments, match="nan, which JSON cannot hold"):
            task.enqueue_in(connection, math.nan)
        job = task.enqueue_in(connection, 0.5)
    app.close()

    assert postgres_shop.sql("SELECT id FROM orders") == [(1,)]
    assert postgres_shop.state(job.id) is State.READY


@pytest.mark.parametrize(("name", "value"), HOSTILE.items(), ids=list(HOSTILE))
def test_the_refusal_names_the_argument(shop: Shop, name: str, value: Any) -> None:
    app = JobQueue(shop.url)
    task = app.task(name=TASK)(take)
    with pytest.raises(InvalidArguments) as refused:
        task.enqueue(value)
    app.close()

    told = str(refused.value)
    assert TASK in told
    assert len(told) < 1_000, "a large value is not repeated"
    told.encode()
    assert isinstance(refused.value, ArgumentsTooLarge) is (name == "30 MB")


def test_a_naive_producers_jobs_fail_alone_on_jobqs_worker(shop: Shop) -> None:
    """What the first half let in, the second half bounds."""
    for name in ("NUL", "lone surrogate", "a tuple"):
        NAIVE.enqueue(shop, HOSTILE[name])
    bad = shop.enqueue(args="[1]", max_attempts=1)
    good = shop.enqueue(args='{"value": 1}')

    run_worker(shop)

    assert shop.state(bad) is State.DEAD
    assert shop.state(good) is State.DONE
    (attempt,) = shop.attempts(bad)
    assert attempt.error is not None
    assert attempt.error.type == "jobq.UnreadableArguments"

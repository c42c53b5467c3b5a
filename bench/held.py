"""Drain while somebody else holds a snapshot open, after a million jobs have gone through.

Measured: a real `Worker`, as it comes, in a database through which a million no-op jobs have
passed, 20,000 at a time, since another session began a REPEATABLE READ transaction that it still
keeps open; then the rate of the next lots of 20,000. The same with two readers whose transactions
last ten seconds each and overlap, so that there is always a snapshot open but never the same for
long.
Beside: lots of 20,000 in a new database of the same server, which nobody reads.

Fair because both workers run all the time, in one process, and the lots go to one and the other in
turn, enqueued by the same call. A snapshot keeps VACUUM from the tables of its own database only.
The readers read one row each: what they cost is the snapshot. A lot is over in a second, and two
alike differ by a fifth, so each repetition is of several.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial

import psycopg

from bench.harness import Figure, Place, compare, in_turn
from bench.line import Line

LOT, LOTS = 20_000, 50
TURNS = 4
READERS, READ_S = 2, 10.0
READ = "SELECT FROM jobq.jobs LIMIT 1"
FRESH = "a new database"


def run(place: Place, repeat: int, *, scale: float = 1.0) -> list[Figure]:
    return [
        _beside_fresh(place, repeat, round(LOT * scale), f"drain after 1 M jobs, {name}", hold)
        for name, hold in (("a snapshot held", held), ("overlapping readers", overlapping))
    ]


def _beside_fresh(
    place: Place,
    repeat: int,
    jobs: int,
    name: str,
    hold: Callable[[str], AbstractContextManager[None]],
) -> Figure:
    with (
        place.database() as url,
        place.database() as fresh_url,
        closing(Line(url)) as aged,
        closing(Line(fresh_url)) as fresh,
        hold(url),
        aged.app.worker(),
        fresh.app.worker(),
    ):
        for lot in range(LOTS):
            rate = aged.pass_through(jobs)
            print(f"{name}: lot {lot + 1} of {LOTS}, {rate:,.0f} jobs/s", file=sys.stderr)
        fresh.pass_through(jobs)  # plans are made, statements prepared
        samples = in_turn(
            {name: partial(aged.pass_through, jobs), FRESH: partial(fresh.pass_through, jobs)},
            repeat * TURNS,
        )
    return compare(samples, name, FRESH)


@contextmanager
def held(url: str) -> Iterator[None]:
    """One session whose snapshot stays open."""
    with _reader(url) as connection, connection.transaction():
        connection.execute(READ)
        yield


@contextmanager
def overlapping(url: str) -> Iterator[None]:
    """Sessions that take snapshots by turns, each before the other's ends."""
    ended = threading.Event()

    def read(number: int) -> None:
        with _reader(url) as connection:
            ended.wait(READ_S * number / READERS)
            while not ended.is_set():
                with connection.transaction():
                    connection.execute(READ)
                    ended.wait(READ_S)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _reader(url: str) -> psycopg.Connection[tuple[object, ...]]:
    connection = psycopg.connect(url)
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    return connection

"""Resident memory of a worker process over a million no-op jobs.

Measured: a `jobq worker` process, as it comes, through ten lots of 100,000 jobs, half of them run
on its event loop and half in its threads; its resident memory when each lot is done and nothing is
left in line. The growth is the slope of the line through the ten samples. Beside: the same process
after the first lot, by when every module is imported, every pool filled and every buffer as large
as it gets.

Fair because nothing but the number of jobs changes from one sample to the next.
"""

from __future__ import annotations

import sys
import time
from statistics import linear_regression

import psycopg

from bench import tables
from bench.harness import DRAIN_TIMEOUT_S, Figure, Place, settle
from bench.processes import resident_mb, worker_process
from bench.served import NOTHING, NOTHING_IN_A_THREAD

LOTS, LOT = 10, 100_000
IS_DRAINED = "SELECT NOT EXISTS (SELECT FROM jobq.ready) AND NOT EXISTS (SELECT FROM jobq.leases)"


def run(place: Place, repeat: int, *, scale: float = 1.0) -> list[Figure]:
    """One process, whatever `repeat` says: its lots are the repetitions."""
    samples_mb: list[float] = []
    half = round(LOT * scale / 2)
    with place.database() as url, worker_process(url) as pid:
        for lot in range(LOTS):
            print(f"lot {lot + 1} of {LOTS}", file=sys.stderr)
            tables.ready(url, NOTHING, half)
            tables.ready(url, NOTHING_IN_A_THREAD, half)
            settle(url)
            _wait_until_drained(url)
            samples_mb.append(resident_mb(pid))
    first_mb, last_mb = samples_mb[0], samples_mb[-1]
    hundred_thousands = [(lot + 1) * 2 * half / 100_000 for lot in range(LOTS)]
    slope = linear_regression(hundred_thousands, samples_mb).slope
    ratios = [sample_mb / first_mb for sample_mb in samples_mb]
    return [
        Figure("growth over 1 M jobs", slope, "MB per 100 k"),
        Figure(
            "resident after 1 M jobs", last_mb, "MB", "after 100 k", first_mb, ratios[-1], ratios
        ),
    ]


def _wait_until_drained(url: str) -> None:
    deadline_s = time.monotonic() + DRAIN_TIMEOUT_S
    with psycopg.connect(url, autocommit=True) as connection:
        while not connection.execute(IS_DRAINED).fetchall()[0][0]:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"not every job was done within {DRAIN_TIMEOUT_S:g} s")
            time.sleep(0.1)

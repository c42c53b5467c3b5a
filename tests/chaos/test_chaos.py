"""Short runs: jobq under faults keeps every invariant, and the naive queue does not.

The long runs are `python -m tests.chaos`; see docs/chaos.md.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import run
from sys import executable

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from jobq.database.url import conninfo, parse_url
from jobq.failure_modes.proxy import Cut
from jobq.failure_modes.transactions import WAIT_S
from tests.chaos.chaos import Chaos, Result
from tests.chaos.clock import shifted_environment
from tests.chaos.history import Op
from tests.chaos.schedule import Kind, draw_schedule
from tests.chaos.wire import Wire

SECONDS = 15
SEED = 1


def run_chaos(*, naive: bool) -> Result:
    said: list[str] = []
    result = Chaos(seconds=SECONDS, seed=SEED, naive=naive, tell=said.append).run()
    print("\n".join(said), result.report, sep="\n")  # noqa: T201 - shown when a test fails
    return result


@pytest.mark.timeout(300)
def test_no_invariant_is_broken_under_faults() -> None:
    result = run_chaos(naive=False)

    assert result.violations == [], "\n".join(map(str, result.violations))
    report = result.report
    assert report.duplicates == 0
    assert report.drained_s is not None
    assert report.worker_exits == 0
    # A run in which nothing went wrong would have shown nothing.
    assert report.jobs > 0
    assert report.fates.keys() == {"cancelled", "committed", "dead"}
    lasting = {Kind.KILL, Kind.FREEZE, Kind.CRASH}
    assert all(report.faults.get(kind) for kind in lasting), report.faults
    assert any(name.startswith("cut_") for name in report.faults), report.faults


@pytest.mark.timeout(300)
def test_the_naive_queue_is_caught() -> None:
    result = run_chaos(naive=True)
    try:
        assert result.report.duplicates > 0
        twice = {one.job for one in result.violations if "was applied" in one.what}
        assert len(twice) > 0
        shown = next(one for one in result.violations if "was applied" in one.what)
        assert sum(one.op is Op.EFFECT for one in shown.operations) > 1
        assert result.report.folder is not None
        kept = Path(result.report.folder)
        assert {"schedule.txt", "violations.txt"} <= {path.name for path in kept.iterdir()}
    finally:
        if result.report.folder is not None:
            shutil.rmtree(result.report.folder)


def test_a_schedule_replays_from_its_seed() -> None:
    assert draw_schedule(7, 120) == draw_schedule(7, 120)
    assert draw_schedule(7, 120) != draw_schedule(8, 120)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short = draw_schedule(7, 30)
    assert draw_schedule(7, 120)[: len(short)] == short


def test_every_kind_of_fault_comes_early() -> None:
    first = [fault.kind for fault in draw_schedule(7, 120)][: len(Kind)]
    assert Counter(first) == Counter(Kind)


def test_a_shifted_process_lives_an_hour_ahead() -> None:
    """And measures durations as everybody does."""
    asked = "import time\nfrom tests.chaos.clock import shift_as_told\nshift_as_told()\n"
    asked += "from datetime import datetime, UTC\n"
    asked += "print(time.time(), datetime.now(UTC).timestamp(), time.monotonic())"
    told = run(
        [executable, "-c", asked],
        env={**os.environ, **shifted_environment(3600)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    clock, date, monotonic = map(float, told)
    now, now_monotonic = time.time(), time.monotonic()
    assert 3500 < clock - now <= 3600
    assert 3500 < date - now <= 3600
    assert 0 <= now_monotonic - monotonic < 100


@pytest.fixture
def wire(postgres_url: str) -> Iterator[Wire]:
    with ExitStack() as stack:
        opened = Wire(postgres_url)
        stack.callback(opened.close)
        yield opened


def commit_through(wire: Wire) -> None:
    url = make_conninfo(conninfo(parse_url(wire.url)), connect_timeout=int(WAIT_S))
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1")


def test_cuts_wait_for_each_other(wire: Wire) -> None:
    wire.cut(Cut.AFTER_COMMIT)
    wire.cut(Cut.BEFORE_COMMIT)

    for _ in range(2):
        with pytest.raises(psycopg.OperationalError):
            commit_through(wire)
    commit_through(wire)

    assert wire.cuts == {Cut.AFTER_COMMIT: 1, Cut.BEFORE_COMMIT: 1}


def test_a_disarmed_wire_cuts_nothing(wire: Wire) -> None:
    wire.cut(Cut.AFTER_COMMIT)
    wire.cut(Cut.BEFORE_COMMIT)
    wire.disarm()

    commit_through(wire)

    assert not wire.cuts

"""FM_025: on SQLite, a step that takes the one lock too late is refused, overtaken or torn.

A file has one writer at a time. A transaction begun with BEGIN takes the lock at its first write;
if it has read before, and somebody has written since, it is refused with "database is locked", at
once, whatever the timeout. Without a transaction each statement is by itself: two workers that look
for a job and then take it by its id both have it, and a process that is killed in between leaves
the job nowhere.

The fix is BEGIN IMMEDIATE around every step (I5, I6): the lock comes first, whoever comes second
waits, and what a killed process had begun is rolled back by whoever opens the file next.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobq import DatabaseUnavailable, State
from jobq.failure_modes.fm_025_sqlite_one_writer import (
    NAIVE,
    Ways,
    claim,
    play,
    reproduce,
    slowly,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from tests.worker import charges
from tests.worker.conftest import Site, opened, wait_for

JOBS = 60


@pytest.fixture
def sqlite_site(sqlite_url: str, tmp_path: Path) -> Iterator[Site]:
    yield from opened(sqlite_url, tmp_path)


def test_reproduces_a_file_that_is_busy_a_job_with_two_workers_and_one_with_none(
    sqlite_shop: Shop,
) -> None:
    found = reproduce(sqlite_shop)

    assert found.is_harmed
    assert found.seen["told"] == "database is locked"
    assert found.seen["holders"] == ["A", "B"]
    assert found.seen["places"] == []


def test_prevented_by_taking_the_lock_first(sqlite_shop: Shop) -> None:
    found = play(sqlite_shop)

    assert not found.is_harmed
    assert found.seen == {"told": "done", "holders": ["A"], "places": ["ready"]}
    assert not violations(sqlite_shop, is_every_commit_charged=True)


def test_jobqs_claim_decides_in_one_statement_as_well(sqlite_shop: Shop) -> None:
    """So it is not claimed twice even without a transaction; but it is torn."""
    found = play(sqlite_shop, Ways(NAIVE.reads_first, NAIVE.claims, claim))

    assert found.seen["holders"] == ["A"]
    assert found.seen["places"] == []


def test_a_step_waits_for_the_writer_before_it(sqlite_shop: Shop) -> None:
    shop = sqlite_shop
    job_id = shop.enqueue()
    path = str(shop.database.url.database)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    leases: list[object] = []
    waiting = threading.Thread(target=lambda: leases.append(shop.claim_one("A")))
    waiting.start()
    other.execute("INSERT INTO ledger VALUES (0, 'other')")
    assert not leases
    other.execute("COMMIT")
    other.close()
    waiting.join(30)

    assert shop.state(job_id) is State.LEASED


def test_a_writer_that_does_not_end_is_told_of_as_such(
    sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An effect that stays open, a backup: then the error says so, and the step may be repeated."""
    monkeypatch.setattr("jobq.database.sqlite.BUSY_TIMEOUT_S", 0.1)
    shop = sqlite_shop
    other = sqlite3.connect(str(shop.database.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    link = shop.database.link()
    with pytest.raises(DatabaseUnavailable, match="database is locked"):
        link.run(shop.database.store.promote(1))
    other.execute("ROLLBACK")
    other.close()

    assert link.run(shop.database.store.promote(1)) == 0
    link.close()


def test_three_processes_and_two_that_are_killed(
    sqlite_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever they stand: every job is charged once, and the file is whole."""
    monkeypatch.setattr("tests.worker.conftest.BOUND_S", 180.0)  # to start them takes a while
    site = sqlite_site
    jobs = [charges.charge.enqueue() for _ in range(JOBS)]
    workers = [site.start_worker("--concurrency", "2") for _ in range(3)]
    for number, doomed in enumerate(workers[:2], 1):
        wait_for(lambda number=number: len(site.charged()) >= 10 * number, "some charges", site)  # type: ignore[misc]
        os.kill(doomed.pid, signal.SIGKILL)
        doomed.wait()
    site.wait_until_done(len(jobs))

    assert site.charged() == sorted(job.id for job in jobs)
    with sqlite3.connect(str(site.engine.url.database)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_step_that_stands_still_holds_the_lock(sqlite_shop: Shop) -> None:
    """What `play` rests on: between two statements of a step of jobq's nobody else may write."""
    path = str(sqlite_shop.database.url.database)
    sqlite_shop.enqueue()
    a = sqlite3.connect(path, isolation_level=None)
    b = sqlite3.connect(path, timeout=0.0, isolation_level=None)
    next(slowly(a, Ways().claims, claim("A")))
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        b.execute("BEGIN IMMEDIATE")
    a.close()
    b.execute("BEGIN IMMEDIATE")
    b.close()

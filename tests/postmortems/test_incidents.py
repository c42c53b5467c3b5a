"""The simulated incidents happen: harm on the first queue, none on jobq. Small, and real."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.errors import LockNotAvailable

from jobq import State
from postmortems.double_charge import run as of_double_charge
from postmortems.report import play_both
from postmortems.retry_storm import run as of_retry_storm
from postmortems.retry_storm.app import PATIENCE_VARIABLE, app, charge
from postmortems.shop import TABLES

BOUND_S = 30.0
CHARGE_NOW = """
INSERT INTO charges (order_id, cents, claimed_at, charged_by) VALUES (1, 999, now(), 0)
"""
HOLDING_UP = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"


@pytest.mark.timeout(300)
def test_the_double_charge_and_its_remedy() -> None:
    run = play_both(of_double_charge.play, of_double_charge.SMALL)

    assert of_double_charge.unmet(run) == []
    assert run["naive"]["figures"]["charged_twice"] == 8, "4 by the pause, 4 by the kill"
    assert run["jobq"]["figures"]["charged_twice"] == 0
    assert run["jobq"]["figures"]["zombies_refused"] == 4
    assert run["naive"]["one_order"]["refused"] is None
    assert run["jobq"]["one_order"]["refused"]["reason"] in ("already_committed", "lease_lost")


@pytest.mark.timeout(300)
def test_the_retry_storm_and_its_remedies() -> None:
    run = play_both(of_retry_storm.play, of_retry_storm.SMALL)

    assert of_retry_storm.unmet(run) == []
    assert run["jobq"]["figures"]["most_connections"] < run["jobq"]["figures"]["room"]


def test_a_migration_that_gives_up_holds_nobody_up(empty_postgres_url: str) -> None:
    """Behind a long read ALTER TABLE waits, and who comes after it waits for both; with a
    lock_timeout it fails, and they go on although the read does."""
    with (
        psycopg.connect(empty_postgres_url) as analyst,
        psycopg.connect(empty_postgres_url) as migrating,
        psycopg.connect(empty_postgres_url, autocommit=True) as charging,
        psycopg.connect(empty_postgres_url, autocommit=True) as watch,
        ThreadPoolExecutor(2) as threads,
    ):
        watch.execute(TABLES.encode())
        analyst.execute("SELECT sum(cents) FROM charges")
        migrating.execute("SET LOCAL lock_timeout = '3s'")
        altered = threads.submit(migrating.execute, b"ALTER TABLE charges ADD COLUMN note text")
        wait_until_held_up(watch, by=analyst)
        charged = threads.submit(charging.execute, CHARGE_NOW.encode())
        wait_until_held_up(watch, by=migrating)

        with pytest.raises(LockNotAvailable):
            altered.result(BOUND_S)
        charged.result(BOUND_S)
        assert analyst.info.transaction_status is psycopg.pq.TransactionStatus.INTRANS


def test_a_charge_that_is_given_up_is_given_up_by_the_server(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is rolled back where it hangs, and nothing is left that could be carried out later."""
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.3")
    with (
        psycopg.connect(postgres_url) as migrating,
        psycopg.connect(postgres_url, autocommit=True) as watch,
        app.on(postgres_url),
    ):
        watch.execute(TABLES.encode())
        migrating.execute("LOCK TABLE charges")
        with app.worker(poll_s=0.05):
            job = charge.using(max_attempts=1).enqueue(order_id=1, cents=999)
            wait_until_held_up(watch, by=migrating)
            assert job.wait(BOUND_S).state is State.DEAD
            held_up = watch.execute(HOLDING_UP.encode(), (migrating.info.backend_pid,)).fetchone()
            migrating.rollback()

        (attempt,) = app.attempts(job.id)
        assert attempt.error is not None
        assert attempt.error.type.endswith("QueryCanceled")
        assert held_up == (0,)
        assert watch.execute("SELECT count(*) FROM charges").fetchone() == (0,)


def wait_until_held_up(
    watch: psycopg.Connection[tuple[int]], by: psycopg.Connection[tuple[int]]
) -> None:
    deadline_s = time.monotonic() + BOUND_S
    pid = by.info.backend_pid
    while watch.execute(HOLDING_UP.encode(), (pid,)).fetchone() == (0,):
        assert time.monotonic() < deadline_s, f"waited {BOUND_S:g} s for somebody held up by {pid}"
        time.sleep(0.01)

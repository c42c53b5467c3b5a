"""FM_018: the one that looks after the others stands still.

Recovery, promotion and periodic jobs are for one worker at a time, says the design, and whoever has
PostgreSQL's advisory lock is the one. Should it die, its session ends, and the lock is free. But it
does not die. It is stopped: by SIGSTOP, a debugger, a machine that is suspended or only swaps.
Its kernel goes on acknowledging packets, so its session lives, and so does its lock. All other
workers are well, see that there is a leader, and look after nothing.

jobq has no leader (invariant I6). Every worker does all of it, as each step is safe in any number;
what they would do twice they leave to each other row by row.
"""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from jobq import DatabaseUnavailable, State, WorkerOptions
from jobq.database.open import open_database
from jobq.database.url import conninfo, parse_url
from jobq.failure_modes.fm_018_frozen_leader import (
    JOB_DUE,
    LEASE_EXPIRED,
    QUEUE,
    TICK_DUE,
    TRY_TO_LEAD,
    left,
    owe,
    prevent,
    reproduce,
)
from jobq.failure_modes.fm_020_cap_overshoot_and_double_cron import NIGHTLY
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import WAIT_S, Parties, wait_until
from jobq.protocol.values import Recovered
from jobq.store import schedules
from jobq.store.step import Step
from tests.worker.charges import charge, gated
from tests.worker.conftest import Site, wait_for


def test_reproduces_maintenance_that_stands_still_with_its_leader(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop)

    assert found.is_harmed
    assert found.seen["while_frozen"] == [LEASE_EXPIRED, JOB_DUE, TICK_DUE]


def test_prevented_by_having_no_leader(postgres_shop: Shop) -> None:
    found = prevent(postgres_shop)

    assert not found.is_harmed
    assert found.seen["while_frozen"] == []
    assert violations(postgres_shop, is_every_commit_charged=True) == {}


def test_reproduces_that_only_the_end_of_the_session_helps(postgres_shop: Shop) -> None:
    """A leader that died is succeeded at once; that is the case which everybody has tried."""
    shop = postgres_shop
    leader = psycopg.connect(conninfo(shop.database.url), autocommit=True)
    follower = psycopg.connect(conninfo(shop.database.url), autocommit=True)
    assert leader.execute(TRY_TO_LEAD).fetchone() == (True,)
    assert follower.execute(TRY_TO_LEAD).fetchone() == (False,), "however long it stands still"
    leader.close()
    wait_until(lambda: follower.execute(TRY_TO_LEAD).fetchone() == (True,), "the follower to lead")
    follower.close()


def test_prevented_for_any_number_at_once(postgres_shop: Shop, parties: Parties) -> None:
    """All of it while another worker is in the middle of all of it: nothing is done twice, and
    nobody waits."""
    shop, store = postgres_shop, postgres_shop.database.store
    shop.database.run(schedules.declare(store.portable, [NIGHTLY]))
    owe(shop)
    passes = [parties.open(), parties.open()]
    for one in passes:
        one.run(store.reconcile(100, lambda _: 3600.0))
        one.run(store.promote(100))
        one.run(schedules.make_due(store))
    for one in passes:
        one.commit()

    assert left(shop) == []
    assert len(shop.sql("SELECT 1 FROM jobq.attempts")) == 1
    assert len(shop.claim("B", 10, queues=["default", QUEUE], tasks=["shop.report"])) == 1
    assert len(shop.claim("B", 10, queues=["default", QUEUE])) == 1
    assert violations(shop, is_every_commit_charged=True) == {}


def test_prevented_when_it_stands_still_in_the_middle_of_a_pass(postgres_shop: Shop) -> None:
    """Then it holds rows, and the others leave those alone, until the server ends its transaction:
    before a lease is over, as for an effect (FM_026)."""
    shop = postgres_shop
    job_id = shop.enqueue()
    shop.expire(shop.claim_one("A"))
    database = open_database(
        parse_url(shop.url),
        schema=shop.schema,
        idle_in_transaction_s=WorkerOptions(lease_s=1.0).idle_in_transaction_s,
    )
    link = database.link()
    holds_it, goes_on = threading.Event(), threading.Event()

    def stands_still(step: Step[Recovered]) -> Step[Recovered]:
        rows = yield next(step)
        holds_it.set()
        assert goes_on.wait(WAIT_S)
        while True:
            try:
                statement = step.send(rows)
            except StopIteration as end:
                recovered: Recovered = end.value
                return recovered
            rows = yield statement

    with ThreadPoolExecutor(1) as pool:
        frozen = pool.submit(
            link.run, stands_still(database.store.reconcile(100, lambda _: 3600.0))
        )
        assert holds_it.wait(WAIT_S)
        wait_until(
            lambda: shop.reconcile(3600.0).retried == (job_id,), "the other one to recover the job"
        )
        goes_on.set()
        with pytest.raises(DatabaseUnavailable):
            frozen.result(WAIT_S)
    link.close()
    database.close()

    assert shop.state(job_id) is State.SCHEDULED
    assert len(shop.attempts(job_id)) == 1


def test_prevented_on_worker_processes(postgres_site: Site) -> None:
    """SIGSTOP for the first of two, with a job in its hands; the other one sees to that, and to a
    job that becomes due."""
    site = postgres_site
    held = gated.enqueue(str(site.folder))
    first = site.start_worker()
    wait_for((site.folder / f"started-{held.id}-1").exists, "the handler to start", site)
    first.send_signal(signal.SIGSTOP)
    (site.folder / "go").touch()
    delayed = charge.using(delay=0.1).enqueue()
    site.start_worker()
    site.wait_until_done(2)

    assert site.charged() == sorted([held.id, delayed.id])
    assert held.status().attempts == 2

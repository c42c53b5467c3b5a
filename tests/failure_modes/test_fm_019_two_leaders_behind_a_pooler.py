"""FM_019: a lock that belongs to a session, where sessions are shared.

Leadership by `pg_try_advisory_lock`: the session that has the lock is the leader. Behind PgBouncer
in transaction mode a session belongs to whoever sends the next transaction. A locks, and its server
goes back to the pool with the lock on it; B is given that server, asks for the lock, and has it
already. Both lead, and what is for one to do is done twice. When both are gone, the pooler's
session is still there and keeps the lock: now nobody can lead.

jobq takes no lock that outlives its transaction (invariants I6 and I10), leads by nothing, and
keeps no state of its own in a session that it does not have.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

import jobq
from jobq import JobQueue, Retry, State
from jobq.database.open import open_database
from jobq.database.url import conninfo, parse_url
from jobq.failure_modes import fm_019_two_leaders_behind_a_pooler as fm_019
from jobq.failure_modes import pooler
from jobq.failure_modes.fm_019_two_leaders_behind_a_pooler import (
    SERVERS,
    SESSION_LOCKS,
    STEP_DOWN,
    leads,
    prevent,
    reproduce,
)
from jobq.failure_modes.fm_020_cap_overshoot_and_double_cron import NIGHTLY, REPORT, be_due
from jobq.failure_modes.grounds import NotHere
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.pooler import client_of, is_installed, pooler_to
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import WAIT_S, wait_until

SESSION_LOCK = re.compile(r"pg_(try_)?advisory_(lock|unlock)")
needs_pgbouncer = pytest.mark.skipif(
    not is_installed(), reason="there is no pgbouncer (Debian: pgbouncer)"
)


@needs_pgbouncer
def test_reproduces_two_leaders_and_then_none(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop)

    assert found.is_harmed
    assert found.seen["leaders"] == ["A", "B"]
    assert found.seen["jobs"] == 2
    assert not found.seen["can_be_succeeded"], "the lock is the pooler's now"


@needs_pgbouncer
def test_prevented_by_leading_by_nothing(postgres_shop: Shop) -> None:
    found = prevent(postgres_shop)

    assert not found.is_harmed
    assert found.seen == {"leaders": [], "jobs": 1, "can_be_succeeded": True}
    assert violations(postgres_shop, is_every_commit_charged=True) == {}


def test_reproduces_it_behind_the_pooler_only(postgres_shop: Shop) -> None:
    """On connections of their own there is one leader, which is what everybody has tried."""
    url = conninfo(postgres_shop.database.url)
    with closing(psycopg.connect(url)) as a, closing(psycopg.connect(url)) as b:
        assert leads(a)
        assert not leads(b)


@pytest.fixture
def one_server(postgres_shop: Shop) -> Iterator[str]:
    with pooler_to(postgres_shop.database.url, servers=1) as url:
        yield url


@needs_pgbouncer
def test_reproduces_that_one_takes_the_lock_from_the_other(one_server: str) -> None:
    """B steps down, and it is A's lock that goes; A is not told."""
    with closing(client_of(one_server)) as a, closing(client_of(one_server)) as b:
        assert leads(a)
        assert b.execute(STEP_DOWN).fetchone() == (True,)
        assert a.execute(STEP_DOWN).fetchone() == (False,)


@needs_pgbouncer
def test_prevented_for_recovery_at_the_same_moment(postgres_shop: Shop) -> None:
    """Two reconcilers behind the pooler, each with a server of its own for as long as it takes."""
    shop = postgres_shop
    job_id = shop.enqueue()
    shop.expire(shop.claim_one("A"))
    with pooler_to(shop.database.url, servers=SERVERS) as url:
        a, b = (open_database(parse_url(url), schema="jobq", is_pooled=True) for _ in range(2))
        with closing(a), closing(b), ThreadPoolExecutor(1) as thread:
            with closing(client_of(url)) as holding:  # and closed, if B should wait for it
                holding.execute("BEGIN")
                holding.execute(f"SELECT FROM jobq.leases WHERE job_id = {job_id} FOR UPDATE")
                early = thread.submit(b.run, b.store.reconcile(100, lambda _: 0.0))
                assert early.result(WAIT_S).retried == ()
            assert a.run(a.store.reconcile(100, lambda _: 0.0)).retried == (job_id,)
            assert b.run(b.store.reconcile(100, lambda _: 0.0)).retried == ()

    assert len(shop.attempts(job_id)) == 1


@needs_pgbouncer
def test_prevented_for_workers_behind_it(postgres_shop: Shop) -> None:
    """Whole workers, all of whose maintenance goes through the pooler: a tick, a crash, a delay."""
    shop = postgres_shop
    shop.enqueue(task=REPORT)
    (crashed,) = shop.claim("dead", tasks=[REPORT])
    shop.expire(crashed.lease)
    with pooler_to(shop.database.url, servers=SERVERS) as url:
        app = JobQueue(url, pooled=True)

        @app.task(name=REPORT, retry=Retry(base_s=0.05, cap_s=0.1))
        def report() -> None: ...

        app.schedule(NIGHTLY.name, NIGHTLY.cron, report.request(), missed="one")
        report.using(delay=0.1).enqueue()
        with app.worker(poll_s=0.05), app.worker(poll_s=0.05):
            wait_until(lambda: len(app.schedules.list()) == 1, "the schedule to be written")
            be_due(shop)
            wait_until(
                lambda: shop.database.run(shop.database.store.counts())[State.DONE] == 3,
                "the job of the tick, the recovered one and the delayed one to be done",
            )
            assert shop.sql(SESSION_LOCKS) == [(0,)]
        app.close()

    assert shop.sql("SELECT count(*) FROM jobq.jobs") == [(3,)]
    assert shop.job(crashed.lease.job_id).attempts == 2
    assert violations(shop, is_every_commit_charged=False) == {}


def test_prevented_as_no_module_of_jobq_takes_a_sessions_lock() -> None:
    """A lock that ends with its transaction (pg_advisory_xact_lock) is another matter."""
    package = Path(jobq.__file__).parent
    locking = [
        f"{path}:{node.lineno}"
        for folder in (package, package.parent / "migrations")
        for path in folder.rglob("*.py")
        if "failure_modes" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and SESSION_LOCK.search(node.value)
    ]
    assert locking == []


def test_without_a_pooler_it_is_not_played_and_says_why(
    postgres_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooler, "PROGRAM", "no-such-pooler")
    for scenario in (fm_019.reproduce, fm_019.prevent):
        with pytest.raises(NotHere, match="needs pgbouncer"):
            scenario(postgres_shop)

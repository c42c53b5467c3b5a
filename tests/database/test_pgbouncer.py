"""Everything keeps its promise behind PgBouncer in transaction mode, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, create_engine, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from jobq import InvalidOption, Job, JobQueue, LeaseLost, State
from jobq.database.open import open_database
from jobq.database.url import conninfo, parse_url
from jobq.failure_modes.pooler import is_installed, pooler_to
from jobq.failure_modes.shop import Shop
from tests.worker.charges import ledger

BOUND_S = 30.0
SERVERS = 5
"""Fewer than clients: each transaction gets another."""
pytestmark = pytest.mark.skipif(
    not is_installed(), reason="there is no pgbouncer (Debian: pgbouncer)"
)


@pytest.fixture
def pooled_url(postgres_url: str) -> Iterator[str]:
    """The database again, through a PgBouncer of its own."""
    with pooler_to(parse_url(postgres_url), servers=SERVERS) as through:
        yield through


@pytest.fixture
def app(pooled_url: str, postgres_url: str) -> Iterator[JobQueue]:
    engine = create_engine(parse_url(postgres_url))
    ledger.metadata.create_all(engine)
    engine.dispose()
    app = JobQueue(pooled_url, pooled=True)
    yield app
    app.close()


def charged(url: str) -> list[int]:
    engine = create_engine(parse_url(url))
    with engine.connect() as connection:
        found = sorted(connection.scalars(select(ledger.c.job_id)))
    engine.dispose()
    return found


def test_every_kind_of_effect_happens_once(app: JobQueue, postgres_url: str) -> None:
    @app.task(name="session")
    def session(db: Session, n: int) -> None:
        db.execute(insert(ledger).values(job_id=n, charged_by="session"))

    @app.task(name="connection")
    def connection(db: Connection, n: int) -> int:
        db.execute(insert(ledger).values(job_id=n, charged_by="connection"))
        return n

    @app.task(name="driver")
    def driver(db: psycopg.Connection[Any], n: int) -> None:
        db.execute("INSERT INTO ledger (job_id, charged_by) VALUES (%s, 'driver')", [n])

    @app.task(name="boundary")
    def boundary(job: Job, n: int) -> None:
        with job.commit() as db:
            db.execute(insert(ledger).values(job_id=n, charged_by="boundary"))

    @app.task(name="async session")
    async def async_session(db: AsyncSession, n: int) -> None:
        await db.execute(insert(ledger).values(job_id=n, charged_by="async session"))

    @app.task(name="async connection")
    async def async_connection(db: AsyncConnection, n: int) -> None:
        await db.execute(insert(ledger).values(job_id=n, charged_by="async connection"))

    @app.task(name="async driver")
    async def async_driver(db: psycopg.AsyncConnection[Any], n: int) -> None:
        await db.execute("INSERT INTO ledger (job_id, charged_by) VALUES (%s, 'async')", [n])

    tasks: list[Any] = list(app.tasks.values())
    requests = [task.request(n=n) for n, task in enumerate(tasks * 20)]
    handles = app.enqueue_many(requests)
    with app.worker(poll_s=0.05, concurrency=6), app.worker(poll_s=0.05, concurrency=6):
        for handle in handles:
            assert handle.wait(BOUND_S).state in (State.COMMITTED, State.DONE)
    assert charged(postgres_url) == list(range(len(requests)))


def test_very_many_come_in_by_copy(app: JobQueue) -> None:
    @app.task(name="plain")
    def plain(n: int) -> None: ...

    assert len(app.enqueue_many(plain.request(n) for n in range(6_000))) == 6_000
    assert app.database.run(app.database.store.counts())[State.READY] == 6_000


def test_no_setting_of_ours_is_left_on_a_server(app: JobQueue, pooled_url: str) -> None:
    @app.task(name="plain")
    def plain(db: psycopg.Connection[Any]) -> None: ...

    handles = app.enqueue_many(plain.request() for _ in range(50))
    with app.worker(poll_s=0.05, concurrency=10):
        for handle in handles:
            handle.wait(BOUND_S)
    clients = [
        psycopg.connect(conninfo(parse_url(pooled_url)), prepare_threshold=None)
        for _ in range(SERVERS)
    ]
    settings = ["enable_seqscan", "plan_cache_mode", "jit", "idle_in_transaction_session_timeout"]
    for setting in settings:
        # Open transactions, so that each client has a server of its own.
        found = {client.execute(f"SHOW {setting}").fetchone() for client in clients}
        assert len(found) == 1
        default = (
            clients[0]
            .execute("SELECT reset_val FROM pg_settings WHERE name = %s", [setting])
            .fetchone()
        )
        shown = clients[0].execute("SELECT setting FROM pg_settings WHERE name = %s", [setting])
        assert shown.fetchone() == default
    prepared = clients[0].execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
    assert prepared == (0,)
    for client in clients:
        client.close()


def test_a_zombie_is_refused_and_a_crash_healed(pooled_url: str) -> None:
    database = open_database(parse_url(pooled_url), schema="jobq", is_pooled=True)
    shop = Shop(database, pooled_url)
    with psycopg.connect(conninfo(parse_url(pooled_url)), prepare_threshold=None) as connection:
        connection.execute("CREATE TABLE ledger (job_id bigint, worker text)")
    first, second = shop.enqueue(), shop.enqueue()
    zombie, crashed = (claimed.lease for claimed in shop.claim("A", 2))
    effect = shop.effect(crashed, "A")
    effect.charge()
    effect.commit()
    shop.recover(crashed)
    shop.recover(zombie)
    live = shop.claim_one("B")
    late = shop.effect(zombie, "A")
    assert isinstance(late.refusal, LeaseLost)
    effect = shop.effect(live, "B")
    effect.charge()
    effect.commit()
    shop.finalize(live)
    assert [shop.state(job_id) for job_id in (first, second)] == [State.DONE] * 2
    assert shop.ledger() == ["A", "B"]
    shop.close()


def test_a_pooler_is_for_postgresql(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="leave it out"):
        JobQueue(f"sqlite:///{tmp_path}/jobs.db", pooled=True).database  # noqa: B018

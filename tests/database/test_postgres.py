"""What the connections to PostgreSQL must do when things break."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from jobq.commit import commit_effect_idempotent, commit_effect_idempotent_async
from jobq.database.base import Database
from jobq.database.open import open_database
from jobq.database.url import parse_url
from jobq.errors import DatabaseUnavailable
from jobq.failure_modes.shop import Shop, charge
from jobq.store.step import Statement, Step

BOUND_S = 20.0


@pytest.fixture
def small_pool(postgres_shop: Shop) -> Iterator[Database]:
    database = open_database(
        parse_url(postgres_shop.url), schema="jobq", max_connections=2, idle_in_transaction_s=0.3
    )
    yield database
    database.close()


@pytest.mark.parametrize("kind", [psycopg.Connection, Connection, Session])
def test_broken_connections_are_not_lost_to_the_pool(
    postgres_shop: Shop, small_pool: Database, kind: type[Any]
) -> None:
    """More breakages than the pool has connections: a leak of one each would empty it."""
    for round_number in range(5):
        job_id = postgres_shop.enqueue()
        lease = postgres_shop.claim_one("A")
        with (
            pytest.raises(Exception, match=r"terminat|closed|lost|consuming"),
            commit_effect_idempotent(small_pool, lease, kind) as effect,
        ):
            postgres_shop.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE state = 'idle in transaction' AND datname = current_database()"
            )
            execute_on(effect, "SELECT 1")
        with commit_effect_idempotent(small_pool, lease, kind) as effect:
            execute_on(effect, f"INSERT INTO ledger VALUES ({job_id}, 'A{round_number}')")

    assert postgres_shop.ledger() == [f"A{n}" for n in range(5)]


def test_a_transaction_frozen_on_a_link_is_ended_by_the_server(
    postgres_shop: Shop, small_pool: Database
) -> None:
    """A worker frozen in the middle of its cycle holds leases: its own, and other jobs'.

    The step stands still between two statements, as the process would under SIGSTOP, until
    another session can have the lease.
    """
    postgres_shop.enqueue()
    lease = postgres_shop.claim_one("A")
    link = small_pool.link()

    def freeze() -> Step[None]:
        lock = f"SELECT 1 FROM jobq.leases WHERE job_id = {lease.job_id} FOR UPDATE"
        yield Statement(lock, {})
        deadline_s = time.monotonic() + BOUND_S
        while not postgres_shop.sql(f"{lock} SKIP LOCKED"):
            assert time.monotonic() < deadline_s, "the server never ended the frozen transaction"
        yield Statement("SELECT 1", {})

    with pytest.raises(DatabaseUnavailable):
        link.run(freeze())
    link.run(small_pool.store.finalize([lease]))  # and the link connects again
    link.close()


def test_an_effect_frozen_in_its_transaction_is_ended_by_the_server(
    postgres_shop: Shop, small_pool: Database
) -> None:
    """FM_026's bound: the lease's row lock ends with the transaction, and the job is recovered."""
    postgres_shop.enqueue()
    lease = postgres_shop.claim_one("A")
    postgres_shop.expire(lease)

    with (
        pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout),
        commit_effect_idempotent(small_pool, lease, psycopg.Connection) as effect,
    ):
        charge(effect, lease, "A")
        assert postgres_shop.reconcile().total == 0, "while it may still commit"
        deadline_s = time.monotonic() + BOUND_S
        while postgres_shop.reconcile().retried != (lease.job_id,):
            assert time.monotonic() < deadline_s, "the server never ended the frozen transaction"
        execute_on(effect, "SELECT 1")

    assert postgres_shop.ledger() == []


def execute_on(effect: Any, statement: str) -> None:
    if isinstance(effect, Connection):
        effect.exec_driver_sql(statement)
    elif isinstance(effect, Session):
        effect.connection().exec_driver_sql(statement)
    else:
        effect.execute(statement)


@pytest.mark.parametrize("kind", [psycopg.Connection, Connection, Session])
def test_steps_and_effects_run_at_read_committed_whatever_the_default(
    postgres_shop: Shop, small_pool: Database, kind: type[Any]
) -> None:
    """At a stricter level a step's later statements would answer from its first one's snapshot."""
    name = postgres_shop.database.url.database
    postgres_shop.sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    postgres_shop.enqueue()
    lease = postgres_shop.claim_one("A")

    def level() -> Step[str]:
        ((found,),) = yield Statement("SHOW transaction_isolation", {})
        return str(found)

    link = small_pool.link()
    assert link.run(level()) == "read committed"
    link.close()
    assert small_pool.run(level()) == "read committed"
    with commit_effect_idempotent(small_pool, lease, kind) as effect:
        execute_on(effect, "INSERT INTO ledger SELECT 1, current_setting('transaction_isolation')")
    assert postgres_shop.ledger() == ["read committed"]


async def test_async_steps_and_effects_run_at_read_committed_too(
    postgres_shop: Shop, small_pool: Database
) -> None:
    name = postgres_shop.database.url.database
    postgres_shop.sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    postgres_shop.enqueue()
    lease = postgres_shop.claim_one("A")

    async with commit_effect_idempotent_async(small_pool, lease, AsyncSession) as effect:
        await effect.execute(
            text("INSERT INTO ledger SELECT 1, current_setting('transaction_isolation')")
        )
    await small_pool.aclose()
    assert postgres_shop.ledger() == ["read committed"]


@pytest.mark.parametrize(("default", "ours"), [("off", "on"), ("remote_apply", "remote_apply")])
def test_acknowledged_commits_are_durable_whatever_the_default_is(
    postgres_shop: Shop, default: str, ours: str
) -> None:
    name = postgres_shop.database.url.database
    postgres_shop.sql(f'ALTER DATABASE "{name}" SET synchronous_commit = {default}')

    def asked() -> Step[str]:
        return str((yield Statement("SHOW synchronous_commit", {}))[0][0])

    async def asked_async(database: Database) -> str:
        try:
            return await database.run_async(asked())
        finally:
            await database.aclose()

    database = open_database(parse_url(postgres_shop.url), schema="jobq")
    link = database.link()
    try:
        assert database.run(asked()) == link.run(asked()) == ours
        assert asyncio.run(asked_async(database)) == ours
    finally:
        link.close()
        database.close()

"""The COMMITTED boundary: an effect and its commit record, one transaction, at most once.

Worker A is the one that comes too late, B the one that does not. Every test holds for every kind
of session and connection that a handler can ask for.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from typing import Any

import psycopg
import pytest
import pytest_asyncio
import sqlalchemy.exc
from psycopg.rows import dict_row
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import jobq.commit
import jobq.database.sqlite
from jobq.database.base import Database, Link
from jobq.database.open import open_database
from jobq.database.url import parse_url
from jobq.errors import (
    AlreadyCommitted,
    DatabaseUnavailable,
    EffectOutcomeUnknown,
    EffectRolledBack,
    LeaseLost,
    Refusal,
)
from jobq.failure_modes.proxy import Cut, Proxy, proxy_to
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import (
    MUST_NOT_WAIT,
    WAIT_S,
    OpenTransaction,
    Parties,
    parties_of,
    wait_until,
)
from jobq.protocol.retention import HOUR_S, Retention, RetentionPolicy
from jobq.protocol.states import Outcome, State
from jobq.protocol.values import Lease, Recovered
from tests.contract.hands import (
    SESSIONS,
    Hand,
    Kind,
    boundary,
    done,
    on_async_postgres_kinds,
    on_every_kind,
    on_kinds,
    on_postgres_kinds,
    on_session_kinds,
    on_sqlite_kinds,
)

SHORT_BUSY_TIMEOUT_S = 0.05
DATABASE_ERRORS = (psycopg.Error, sqlite3.Error, sqlalchemy.exc.DBAPIError)
INTEGRITY_ERRORS = (
    psycopg.IntegrityError,
    sqlite3.IntegrityError,
    sqlalchemy.exc.IntegrityError,
)
# The account is there already.
DUPLICATE = "INSERT INTO accounts VALUES (1)"


@pytest.fixture
def is_every_commit_charged() -> bool:
    return True


@pytest_asyncio.fixture(autouse=True)
async def async_side(shop: Shop) -> AsyncIterator[None]:
    """The shop's connections that belong to the test's event loop end with it."""
    yield
    await shop.database.aclose()


@pytest.fixture(autouse=True)
def accounts(shop: Shop) -> None:
    """A table with one account in it: a second insert of it is an IntegrityError."""
    shop.sql("CREATE TABLE accounts (id integer PRIMARY KEY)")
    shop.sql(DUPLICATE)


@pytest_asyncio.fixture
async def impatient(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """Further connections to the shop's database, for which to wait for a lock is an error."""
    monkeypatch.setattr(jobq.database.sqlite, "BUSY_TIMEOUT_S", SHORT_BUSY_TIMEOUT_S)
    url = make_url(shop.url)
    if not shop.is_sqlite:
        url = url.update_query_dict({"options": f"-clock_timeout={MUST_NOT_WAIT}"})
    database = open_database(parse_url(url), schema="jobq")
    yield database
    await database.aclose()
    database.close()


@pytest_asyncio.fixture
async def small(shop: Shop) -> AsyncIterator[Database]:
    """Connections to the shop's database, two at most: a place lost in the pool is soon missed."""
    database = open_database(parse_url(shop.url), schema="jobq", max_connections=2)
    yield database
    await database.aclose()
    database.close()


@pytest.fixture
def proxy(shop: Shop) -> Iterator[Proxy]:
    with proxy_to(shop.url) as wire:
        yield wire


@pytest_asyncio.fixture
async def wired(proxy: Proxy) -> AsyncIterator[Database]:
    """Connections to the shop's database through the proxy."""
    database = open_database(parse_url(proxy.url), schema="jobq")
    yield database
    await database.aclose()
    database.close()


async def charge(database: Database, lease: Lease, kind: Kind, worker: str) -> None:
    async with boundary(database, lease, kind) as hand:
        await hand.charge(lease, worker)


async def assert_refused(database: Database, lease: Lease, kind: Kind, why: type[Refusal]) -> None:
    has_run = False
    with pytest.raises(why):
        async with boundary(database, lease, kind):
            has_run = True
    assert not has_run, "refused before the handler does any work"


def kill_connections(shop: Shop, state: str) -> None:
    """End the server's sessions that are in `state`, as a restart, an operator or a limit does."""
    killed = shop.sql(
        "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity "
        f"WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = '{state}'"
    )
    assert killed, f"no session is {state}"
    assert all(has_ended for (has_ended,) in killed)


# -- one transaction


@on_every_kind
async def test_effect_and_record_are_committed_together(shop: Shop, kind: Kind) -> None:
    job_id = shop.enqueue()
    a = shop.claim_one("A")

    async with boundary(shop.database, a, kind) as hand:
        await hand.charge(a, "A")
        assert isinstance(hand.handle, kind), "the very kind that was asked for"
        assert shop.ledger() == []
        assert shop.records() == []

    assert shop.ledger() == ["A"]
    assert shop.records() == [(a.token, "committed")]
    assert shop.state(job_id) is State.COMMITTED
    shop.finalize(a)
    assert shop.state(job_id) is State.DONE


@on_every_kind
@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError])
async def test_a_handler_that_raises_leaves_neither(
    shop: Shop, kind: Kind, error: type[BaseException]
) -> None:
    shop.enqueue()
    a = shop.claim_one("A")

    with pytest.raises(error):
        async with boundary(shop.database, a, kind) as hand:
            await hand.charge(a, "A")
            raise error

    assert shop.ledger() == []
    assert shop.records() == []
    await charge(shop.database, a, kind, "A again")
    assert shop.ledger() == ["A again"], "the lease is still good"


@on_every_kind
async def test_a_job_is_committed_once_however_often_it_is_tried(shop: Shop, kind: Kind) -> None:
    shop.enqueue()
    a = shop.claim_one("A")
    await charge(shop.database, a, kind, "A")

    await assert_refused(shop.database, a, kind, AlreadyCommitted)
    shop.finalize(a)
    await assert_refused(shop.database, a, kind, AlreadyCommitted)

    assert shop.ledger() == ["A"]


# -- A comes too late


@on_every_kind
@pytest.mark.parametrize("is_finalized", [False, True])
async def test_a_is_refused_after_b_committed(shop: Shop, kind: Kind, is_finalized: bool) -> None:
    shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")
    await charge(shop.database, b, kind, "B")
    if is_finalized:
        shop.finalize(b)

    with pytest.raises(AlreadyCommitted) as refusal:
        await charge(shop.database, a, kind, "A")

    assert refusal.value.outcome is Outcome.COMMITTED
    assert (refusal.value.job_id, refusal.value.token) == (a.job_id, a.token)
    assert shop.ledger() == ["B"]
    assert shop.records() == [(b.token, "committed")]


@on_every_kind
async def test_a_is_refused_after_b_rolled_back(shop: Shop, kind: Kind) -> None:
    """The record that B did not commit must not make room for A's: A's lease is lost."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")
    with pytest.raises(ValueError, match="B's handler"):
        async with boundary(shop.database, b, kind) as hand:
            await hand.charge(b, "B")
            raise ValueError("B's handler")

    await assert_refused(shop.database, a, kind, LeaseLost)  # B holds the lease
    shop.fail(b, retry_delay_s=3600)
    await assert_refused(shop.database, a, kind, LeaseLost)  # the job waits in its backoff
    await assert_refused(shop.database, b, kind, LeaseLost)
    shop.sql("UPDATE jobq.scheduled SET run_at = " + ("0" if shop.is_sqlite else "'2000-01-01'"))
    shop.promote()
    await assert_refused(shop.database, a, kind, LeaseLost)  # the job is ready
    c = shop.claim_one("C")
    await charge(shop.database, c, kind, "C")

    assert shop.ledger() == ["C"]
    assert [end.worker for end in shop.attempts(job_id)] == ["A", "B"]


@on_every_kind
@pytest.mark.parametrize("outcome", [Outcome.DEAD, Outcome.CANCELLED])
async def test_a_is_refused_when_the_job_has_another_fate(
    shop: Shop, kind: Kind, outcome: Outcome
) -> None:
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    if outcome is Outcome.DEAD:
        shop.fail(a, retry_delay_s=None)
    else:
        shop.cancel(job_id)

    with pytest.raises(AlreadyCommitted) as refusal:
        await charge(shop.database, a, kind, "A")

    assert refusal.value.outcome is outcome
    assert shop.ledger() == []


@on_postgres_kinds
async def test_a_does_not_wait_for_b(shop: Shop, impatient: Database, kind: Kind) -> None:
    """B's record is there and not committed: a bare unique insert would wait for it here."""
    shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")

    async with boundary(shop.database, b, kind) as hand:
        await hand.charge(b, "B")
        await assert_refused(impatient, a, kind, LeaseLost)

    assert shop.ledger() == ["B"]


@on_postgres_kinds
async def test_while_a_is_inside_its_effect_its_job_is_nobody_elses(
    shop: Shop, impatient: Database, kind: Kind
) -> None:
    shop.enqueue()
    a = shop.claim_one("A")

    async with boundary(shop.database, a, kind) as hand:
        await hand.charge(a, "A")
        shop.expire(a)
        store = impatient.store
        assert impatient.run(store.reconcile(100, lambda _: 0.0)) == Recovered(), "without waiting"
        assert shop.promote() == 0
        assert shop.claim("B") == []

    assert shop.ledger() == ["A"]
    assert shop.reconcile() == Recovered(healed=(a.job_id,))


@on_postgres_kinds
async def test_b_commits_while_a_is_inside_an_effect_that_the_server_ended(
    shop: Shop, kind: Kind
) -> None:
    """A froze inside its effect; the server ended the idle transaction; A knows nothing of it."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")

    with pytest.raises((*DATABASE_ERRORS, EffectRolledBack)):
        async with boundary(shop.database, a, kind) as hand:
            await hand.charge(a, "A")
            kill_connections(shop, "idle in transaction")
            recovered = shop.recover(a)
            b = shop.claim_one("B")
            await charge(shop.database, b, kind, "B")

    assert recovered == Recovered(retried=(job_id,))
    assert shop.ledger() == ["B"]
    assert shop.records() == [(b.token, "committed")]


@on_sqlite_kinds
async def test_while_a_is_inside_its_effect_nobody_else_writes(
    shop: Shop, impatient: Database, kind: Kind
) -> None:
    """SQLite has one writer; the others are told so, and nothing is half done."""
    shop.enqueue()
    shop.enqueue()
    a = shop.claim_one("A")
    b = shop.claim_one("B")

    async with boundary(shop.database, a, kind) as hand:
        await hand.charge(a, "A")
        with pytest.raises(DatabaseUnavailable, match="locked"):
            impatient.run(impatient.store.reconcile(100, lambda _: 0.0))
        with pytest.raises(DatabaseUnavailable, match="locked"):
            await charge(impatient, b, kind, "B")
    shop.expire(a)
    assert shop.reconcile() == Recovered(healed=(a.job_id,))
    await charge(impatient, b, kind, "B")

    assert shop.ledger() == ["A", "B"]


@on_every_kind
async def test_every_attempt_is_refused_but_one(shop: Shop, kind: Kind) -> None:
    """Ten workers froze one after the other; the last one commits, and all of them wake up."""
    shop.enqueue(max_attempts=20)
    frozen = []
    for worker in range(10):
        frozen.append(shop.claim_one(f"A{worker}"))
        shop.recover(frozen[-1])
    b = shop.claim_one("B")
    for a in frozen[:5]:
        await assert_refused(shop.database, a, kind, LeaseLost)
    await charge(shop.database, b, kind, "B")
    for a in frozen:
        await assert_refused(shop.database, a, kind, AlreadyCommitted)

    assert shop.ledger() == ["B"]


# -- what a handler may do to its transaction


async def swallow(doing: Awaitable[None]) -> None:
    try:
        await doing
    except Exception:  # noqa: BLE001 - the point of it
        return


async def break_integrity(hand: Hand) -> None:
    await hand.execute(DUPLICATE)


@on_postgres_kinds
@pytest.mark.parametrize("is_first", [False, True])
async def test_a_swallowed_database_error_rolls_the_effect_back(
    shop: Shop, kind: Kind, is_first: bool
) -> None:
    """PostgreSQL answers COMMIT with ROLLBACK then, and drivers report success."""
    shop.enqueue()
    a = shop.claim_one("A")

    with pytest.raises(EffectRolledBack):
        async with boundary(shop.database, a, kind) as hand:
            if not is_first:
                await hand.charge(a, "A")
            await swallow(break_integrity(hand))
            if is_first:
                await swallow(hand.charge(a, "A"))

    assert shop.ledger() == []
    assert shop.records() == []


@on_sqlite_kinds
async def test_a_swallowed_database_error_undoes_one_statement_on_sqlite(
    shop: Shop, kind: Kind
) -> None:
    shop.enqueue()
    a = shop.claim_one("A")

    async with boundary(shop.database, a, kind) as hand:
        await swallow(break_integrity(hand))
        await hand.charge(a, "A")

    assert shop.ledger() == ["A"]


@on_every_kind
async def test_an_error_confined_to_a_savepoint_may_be_swallowed(shop: Shop, kind: Kind) -> None:
    shop.enqueue()
    a = shop.claim_one("A")

    async def insert_confined(hand: Hand) -> None:
        async with hand.savepoint():
            await hand.charge(a, "nobody")
            await break_integrity(hand)

    async with boundary(shop.database, a, kind) as hand:
        await swallow(insert_confined(hand))
        await hand.charge(a, "A")
        await swallow(insert_confined(hand))

    assert shop.ledger() == ["A"]
    assert shop.records() == [(a.token, "committed")]


@on_every_kind
async def test_a_savepoint_does_not_save_a_duplicate(shop: Shop, kind: Kind) -> None:
    """The record is inserted outside the handler's savepoints: its refusal cannot be swallowed."""
    shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    await charge(shop.database, shop.claim_one("B"), kind, "B")

    with pytest.raises(AlreadyCommitted):
        async with boundary(shop.database, a, kind) as hand, hand.savepoint():
            await hand.charge(a, "A")

    assert shop.ledger() == ["B"]


Misbehaviour = Callable[[Hand, Lease], Awaitable[None]]


async def commits(hand: Hand, lease: Lease) -> None:
    await hand.charge(lease, "A")
    await hand.commit()


async def commits_first(hand: Hand, lease: Lease) -> None:
    await hand.commit()
    await hand.charge(lease, "A")


async def commits_and_swallows(hand: Hand, lease: Lease) -> None:
    await swallow(hand.commit())
    await swallow(hand.charge(lease, "A"))
    await swallow(hand.commit())


async def rolls_back(hand: Hand, lease: Lease) -> None:
    await hand.charge(lease, "A")
    await hand.rollback()


async def rolls_back_and_swallows(hand: Hand, lease: Lease) -> None:
    await hand.execute("SELECT 1")  # a session knows its transaction only from now on
    await swallow(hand.rollback())
    await swallow(hand.charge(lease, "A"))
    await swallow(hand.commit())


async def says_commit(hand: Hand, lease: Lease) -> None:
    await hand.charge(lease, "A")
    await swallow(hand.execute("COMMIT"))


async def says_rollback(hand: Hand, lease: Lease) -> None:
    await hand.charge(lease, "A")
    await swallow(hand.execute("ROLLBACK"))


async def says_rollback_first(hand: Hand, lease: Lease) -> None:
    await swallow(hand.execute("ROLLBACK"))
    await swallow(hand.charge(lease, "A"))


async def closes(hand: Hand, lease: Lease) -> None:
    await hand.charge(lease, "A")
    await hand.close()


async def closes_first(hand: Hand, lease: Lease) -> None:
    await hand.close()
    await swallow(hand.charge(lease, "A"))


async def enters_it(hand: Hand, lease: Lease) -> None:
    """`with connection:`, which commits on psycopg and sqlite3 and closes on SQLAlchemy."""
    if hasattr(hand.handle, "__aenter__"):
        async with hand.handle:
            await hand.charge(lease, "A")
    else:
        with hand.handle:
            await hand.charge(lease, "A")


async def enters_it_and_raises(hand: Hand, lease: Lease) -> None:
    if hasattr(hand.handle, "__aenter__"):
        async with hand.handle:
            await hand.charge(lease, "A")
            raise ValueError
    with hand.handle:
        await hand.charge(lease, "A")
        raise ValueError


MISBEHAVIOURS: list[Misbehaviour] = [
    commits,
    commits_first,
    commits_and_swallows,
    rolls_back,
    rolls_back_and_swallows,
    says_commit,
    says_rollback,
    says_rollback_first,
    closes,
    closes_first,
    enters_it,
    enters_it_and_raises,
]


@on_every_kind
@pytest.mark.parametrize("misbehave", MISBEHAVIOURS)
async def test_a_handler_that_ends_the_transaction_itself_gets_both_or_neither(
    shop: Shop, small: Database, kind: Kind, misbehave: Misbehaviour
) -> None:
    shop.enqueue()
    a = shop.claim_one("A")

    error: BaseException | None = None
    try:
        async with boundary(small, a, kind) as hand:
            await misbehave(hand, a)
    except Exception as raised:  # noqa: BLE001 - which one is the next test's business
        error = raised

    committed = bool(shop.records())
    assert shop.ledger() == (["A"] if committed else [])
    assert committed or error is not None, "an effect is not lost in silence"
    if not committed:
        shop.recover(a)
    # The connection is as good as new, or gone: and the pool has kept its places.
    others = shop.enqueue_many(3)
    await asyncio.gather(*(charge(small, c.lease, kind, "B") for c in shop.claim("B", limit=9)))
    assert len(shop.ledger()) == len(others) + 1
    assert len(shop.records()) == len(others) + 1


@on_every_kind
@pytest.mark.parametrize("misbehave", [commits_first, commits])
async def test_commit_is_left_to_jobq(shop: Shop, kind: Kind, misbehave: Misbehaviour) -> None:
    """A session's commit() flushes; a connection's is refused, before anything is committed."""
    shop.enqueue()
    a = shop.claim_one("A")

    if issubclass(kind, SESSIONS):
        async with boundary(shop.database, a, kind) as hand:
            await misbehave(hand, a)
            assert shop.records() == [], "not yet"
        assert shop.ledger() == ["A"]
    else:
        with pytest.raises((*DATABASE_ERRORS, sqlalchemy.exc.InvalidRequestError)):
            async with boundary(shop.database, a, kind) as hand:
                await misbehave(hand, a)
        assert shop.records() == []
        assert shop.ledger() == []


@on_session_kinds
async def test_a_session_may_commit_as_often_as_it_likes(shop: Shop, kind: Kind) -> None:
    shop.enqueue()
    a = shop.claim_one("A")

    with pytest.raises(ValueError, match="after two commits"):
        async with boundary(shop.database, a, kind) as hand:
            await hand.commit()
            await hand.charge(a, "A")
            await hand.commit()
            raise ValueError("after two commits")

    assert shop.ledger() == []
    assert shop.records() == []


@on_postgres_kinds
async def test_a_connection_that_its_handler_closed_is_lent_to_nobody_else(
    shop: Shop, small: Database, kind: Kind
) -> None:
    """Given back to the pool too early, it would end up in two transactions at once."""
    a_job, b_job = shop.enqueue(), shop.enqueue()
    a, b = shop.claim_one("A"), shop.claim_one("B")

    async with AsyncExitStack() as of_b:
        async with AsyncExitStack() as of_a:
            hand_of_a = await of_a.enter_async_context(boundary(small, a, kind))
            await hand_of_a.charge(a, "A")
            await hand_of_a.close()
            hand_of_b = await of_b.enter_async_context(boundary(small, b, kind))
            await hand_of_b.charge(b, "B")
            await swallow(of_a.aclose())
        await hand_of_b.execute("SELECT 1")

    assert "B" in shop.ledger()
    assert shop.state(b_job) is State.COMMITTED
    assert shop.ledger() == (["B"] if shop.state(a_job) is State.LEASED else ["A", "B"])


class Accounts(DeclarativeBase):
    """The service's own tables."""


class Account(Accounts):
    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)


@on_session_kinds
async def test_a_flush_that_failed_and_was_swallowed_leaves_neither(shop: Shop, kind: Kind) -> None:
    """An ORM flush that fails rolls the session's whole transaction back."""
    shop.enqueue()
    a = shop.claim_one("A")

    async def flush(hand: Hand) -> None:
        hand.handle.add(Account(id=1))
        await done(hand.handle.flush())

    with pytest.raises((EffectRolledBack, sqlalchemy.exc.InvalidRequestError)):
        async with boundary(shop.database, a, kind) as hand:
            await hand.charge(a, "A")
            await swallow(flush(hand))
            await swallow(hand.charge(a, "A"))

    assert shop.ledger() == []
    assert shop.records() == []


@on_session_kinds
async def test_what_a_session_has_not_flushed_is_flushed_before_the_commit(
    shop: Shop, kind: Kind
) -> None:
    shop.enqueue()
    a = shop.claim_one("A")

    async with boundary(shop.database, a, kind) as hand:
        await hand.charge(a, "A")
        hand.handle.add(Account(id=2))

    assert shop.sql("SELECT id FROM accounts ORDER BY id") == [(1,), (2,)]


@on_session_kinds
async def test_a_last_flush_that_fails_leaves_neither(shop: Shop, kind: Kind) -> None:
    shop.enqueue()
    a = shop.claim_one("A")

    with pytest.raises(sqlalchemy.exc.IntegrityError):
        async with boundary(shop.database, a, kind) as hand:
            await hand.charge(a, "A")
            hand.handle.add(Account(id=1))

    assert shop.ledger() == []
    assert shop.records() == []


@on_sqlite_kinds
async def test_no_statement_after_an_automatic_rollback_is_committed_by_itself(
    shop: Shop, kind: Kind
) -> None:
    """SQLite ends the whole transaction after some errors (OR ROLLBACK, a full disk), and runs
    what follows in a transaction of its own: an effect without its record."""
    shop.enqueue()
    a = shop.claim_one("A")

    with pytest.raises((*DATABASE_ERRORS, EffectRolledBack, sqlalchemy.exc.InvalidRequestError)):
        async with boundary(shop.database, a, kind) as hand:
            await hand.execute("DELETE FROM ledger")
            await hand.charge(a, "A")
            await swallow(hand.execute("INSERT OR ROLLBACK INTO accounts VALUES (1)"))
            await swallow(hand.charge(a, "A"))  # prepared before, and cached by the driver
            await swallow(hand.execute("REPLACE INTO ledger VALUES (1, 'A')"))
            await swallow(hand.execute("WITH a AS (SELECT 1) INSERT INTO ledger SELECT 1, 'A'"))
            await swallow(hand.execute("CREATE TABLE left_behind (id integer)"))

    assert shop.ledger() == []
    assert shop.records() == []
    assert shop.sql("SELECT name FROM sqlite_master WHERE name = 'left_behind'") == []


@on_kinds([], [sqlite3.Connection])
async def test_a_script_does_not_end_the_transaction(shop: Shop, kind: Kind) -> None:
    """executescript() commits first, whatever the script is."""
    shop.enqueue()
    a = shop.claim_one("A")

    with (
        pytest.raises(sqlite3.DatabaseError, match="not authorized"),
        jobq.commit.commit_effect_idempotent(shop.database, a, kind) as connection,
    ):
        connection.executescript(f"INSERT INTO ledger VALUES ({a.job_id}, 'A')")

    assert shop.ledger() == []
    assert shop.records() == []


# -- what a handler leaves behind


@on_kinds([psycopg.Connection, psycopg.AsyncConnection], [])
async def test_a_row_factory_does_not_outlive_its_handler(shop: Shop, kind: Kind) -> None:
    shop.enqueue_many(2)
    a, b = shop.claim_one("A"), shop.claim_one("B")

    async with boundary(shop.database, a, kind) as hand:
        hand.handle.row_factory = dict_row
        await hand.charge(a, "A")
    async with boundary(shop.database, b, kind) as hand:
        await hand.charge(b, "B")
        cursor = await done(hand.handle.execute("SELECT 1 AS one"))
        assert await done(cursor.fetchone()) == (1,)


# -- connections that break


@on_postgres_kinds
async def test_a_connection_killed_inside_the_effect_leaves_neither(
    shop: Shop, small: Database, kind: Kind
) -> None:
    shop.enqueue()
    a = shop.claim_one("A")

    for _ in range(3):  # once more than the pool has places
        with pytest.raises(DATABASE_ERRORS):
            async with boundary(small, a, kind) as hand:
                await hand.charge(a, "A")
                kill_connections(shop, "idle in transaction")
                await hand.charge(a, "A")
    assert shop.ledger() == []
    assert shop.records() == []

    await charge(small, a, kind, "A again")
    assert shop.ledger() == ["A again"]


@on_postgres_kinds
async def test_a_connection_killed_when_the_handler_is_done_leaves_neither(
    shop: Shop, small: Database, kind: Kind
) -> None:
    shop.enqueue()
    a = shop.claim_one("A")

    for _ in range(3):
        with pytest.raises((*DATABASE_ERRORS, EffectRolledBack, DatabaseUnavailable)):
            async with boundary(small, a, kind) as hand:
                await hand.charge(a, "A")
                kill_connections(shop, "idle in transaction")
    assert shop.ledger() == []
    assert shop.records() == []

    await charge(small, a, kind, "A again")
    assert shop.ledger() == ["A again"]


@on_postgres_kinds
async def test_pooled_connections_that_died_are_replaced(
    shop: Shop, small: Database, kind: Kind
) -> None:
    """The server was restarted while the pool was idle: nothing was done yet, so take a new one."""
    shop.enqueue_many(3)
    a, b, c = (claimed.lease for claimed in shop.claim("A", limit=3))
    async with AsyncExitStack() as effects:
        for lease in (a, b):  # at once, so that the pool holds two
            hand = await effects.enter_async_context(boundary(small, lease, kind))
            await hand.charge(lease, "A")
    kill_connections(shop, "idle")

    await charge(small, c, kind, "A")

    assert shop.ledger() == ["A"] * 3


@on_postgres_kinds
async def test_a_commit_whose_answer_is_lost_is_settled_as_committed(
    shop: Shop, wired: Database, proxy: Proxy, kind: Kind
) -> None:
    shop.enqueue()
    a = shop.claim_one("A")

    async with boundary(wired, a, kind) as hand:
        await hand.charge(a, "A")
        proxy.cut(Cut.AFTER_COMMIT)

    assert proxy.has_cut
    assert shop.ledger() == ["A"]
    assert shop.records() == [(a.token, "committed")]


@on_postgres_kinds
async def test_a_commit_that_never_arrived_is_settled_as_not_committed(
    shop: Shop, wired: Database, proxy: Proxy, kind: Kind
) -> None:
    shop.enqueue()
    a = shop.claim_one("A")

    with pytest.raises(DATABASE_ERRORS):
        async with boundary(wired, a, kind) as hand:
            await hand.charge(a, "A")
            proxy.cut(Cut.BEFORE_COMMIT)

    assert proxy.has_cut
    assert shop.ledger() == []
    assert shop.records() == []
    await charge(wired, a, kind, "A again")
    assert shop.ledger() == ["A again"]


@on_postgres_kinds
async def test_a_commit_asked_for_after_its_job_was_pruned_is_unknown(
    shop: Shop, wired: Database, proxy: Proxy, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker was frozen at COMMIT for so long. That nothing was committed would be a lie."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    link = wired.link

    def link_when_the_job_is_gone() -> Link:
        shop.finalize(a)
        shop.grow_old(job_id, age_s=2 * HOUR_S)
        keep = Retention(committed_s=HOUR_S)
        assert shop.prune(RetentionPolicy(otherwise=keep)).total == 1
        return link()

    monkeypatch.setattr(wired, "link", link_when_the_job_is_gone)
    with pytest.raises(EffectOutcomeUnknown, match="pruned with its record"):
        async with boundary(wired, a, kind) as hand:
            await hand.charge(a, "A")
            proxy.cut(Cut.AFTER_COMMIT)

    assert shop.ledger() == ["A"]


@pytest.mark.parametrize("fate", ["dead", "cancelled"])
@on_postgres_kinds
async def test_a_commit_that_never_arrived_is_not_taken_for_a_fate_that_did(
    shop: Shop,
    wired: Database,
    proxy: Proxy,
    kind: Kind,
    fate: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While its worker asks what became of its commit, the job is buried or cancelled. Either
    record bears the token of that attempt, and neither is its commit."""
    job_id = shop.enqueue(max_attempts=1)
    a = shop.claim_one("A")
    link = wired.link

    def link_when_the_fate_is_there() -> Link:
        shop.database.run(shop.database.store.settle(a))  # waits for the old transaction's end
        if fate == "cancelled":
            assert shop.cancel(job_id)
        else:
            assert shop.recover(a).dead == (job_id,)
        return link()

    monkeypatch.setattr(wired, "link", link_when_the_fate_is_there)
    with pytest.raises(DATABASE_ERRORS):
        async with boundary(wired, a, kind) as hand:
            await hand.charge(a, "A")
            proxy.cut(Cut.BEFORE_COMMIT)

    assert proxy.has_cut
    assert shop.ledger() == []
    assert shop.records() == [(a.token, fate)]


# A constraint trigger that fires at COMMIT and waits there for a lock that the test holds.
SLOW_COMMIT = """
CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON ledger
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_at_commit();
"""


@on_postgres_kinds
@pytest.mark.parametrize("is_committed", [True, False])
async def test_settling_waits_for_a_commit_that_is_still_under_way(
    shop: Shop, wired: Database, proxy: Proxy, kind: Kind, is_committed: bool
) -> None:
    """The connection is lost, and the server goes on with the COMMIT: to look at once for the
    record would be to guess."""
    shop.sql(SLOW_COMMIT)
    shop.enqueue()
    a = shop.claim_one("A")

    def end_the_commit(parties: Parties, gate: OpenTransaction) -> None:
        (committing,) = parties.wait_for_blocked_by(gate.pid)
        parties.wait_for_blocked_by(committing)  # it is being settled
        assert shop.records() == []
        if is_committed:
            gate.rollback()
        else:
            shop.sql(f"SELECT pg_terminate_backend({committing})")

    with parties_of(shop) as parties, ThreadPoolExecutor(1) as threads:
        gate = parties.open()
        gate.sql("SELECT pg_advisory_xact_lock(1)")
        ending = threads.submit(end_the_commit, parties, gate)
        expected: AbstractContextManager[object] = (
            nullcontext() if is_committed else pytest.raises(DATABASE_ERRORS)
        )
        with expected:
            async with boundary(wired, a, kind) as hand:
                await hand.charge(a, "A")
                proxy.cut(Cut.AT_COMMIT)
        ending.result(WAIT_S)

    assert shop.ledger() == (["A"] if is_committed else [])


@on_postgres_kinds
@pytest.mark.parametrize("cut", [Cut.BEFORE_COMMIT, Cut.AFTER_COMMIT])
async def test_an_outcome_nobody_can_be_asked_for_is_told_as_unknown(
    shop: Shop,
    wired: Database,
    proxy: Proxy,
    kind: Kind,
    cut: Cut,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobq.commit, "SETTLE_FOR_S", 0.0)
    job_id = shop.enqueue()
    a = shop.claim_one("A")

    with pytest.raises(EffectOutcomeUnknown, match=f"job {job_id}"):
        async with boundary(wired, a, kind) as hand:
            await hand.charge(a, "A")
            proxy.cut(cut)
            proxy.refuse()

    # The reconciler knows: by the record.
    was_committed = cut is Cut.AFTER_COMMIT
    shop.expire(a)
    wait_until(lambda: shop.reconcile().total == 1, "the server to give up the lease's row")
    assert shop.state(job_id) is (State.DONE if was_committed else State.SCHEDULED)
    assert shop.ledger() == (["A"] if was_committed else [])


# -- constraints that are checked at COMMIT


@on_every_kind
async def test_a_constraint_violated_at_commit_leaves_neither(
    shop: Shop, small: Database, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shop.is_sqlite:
        enforce_foreign_keys(monkeypatch)
    shop.sql(
        "CREATE TABLE invoices (account integer REFERENCES accounts (id) "
        "DEFERRABLE INITIALLY DEFERRED)"
    )
    shop.enqueue()
    a = shop.claim_one("A")

    for _ in range(3):
        with pytest.raises(INTEGRITY_ERRORS):
            async with boundary(small, a, kind) as hand:
                await hand.charge(a, "A")
                await hand.execute("INSERT INTO invoices VALUES (404)")
    assert shop.ledger() == []
    assert shop.records() == []

    async with boundary(small, a, kind) as hand:
        await hand.execute("INSERT INTO invoices VALUES (2)")
        await hand.execute("INSERT INTO accounts VALUES (2)")
        await hand.charge(a, "A")
    assert shop.ledger() == ["A"]


def enforce_foreign_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite has them off, for each connection, until told otherwise."""
    prepare, prepare_async = (
        jobq.database.sqlite.prepare,
        jobq.database.sqlite._prepare_async,
    )

    def enforcing(connection: sqlite3.Connection) -> None:
        prepare(connection)
        connection.execute("PRAGMA foreign_keys = ON")

    def enforcing_async(connection: Any, record: Any) -> None:
        prepare_async(connection, record)
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    monkeypatch.setattr(jobq.database.sqlite, "prepare", enforcing)
    monkeypatch.setattr(jobq.database.sqlite, "_prepare_async", enforcing_async)


# -- an asyncio task that is cancelled


@on_async_postgres_kinds
async def test_a_handler_cancelled_inside_a_statement_leaves_neither(
    shop: Shop, small: Database, kind: Kind
) -> None:
    shop.enqueue()
    a = shop.claim_one("A")

    async def work() -> None:
        async with boundary(small, a, kind) as hand:
            await hand.charge(a, "A")
            await hand.execute("SELECT pg_advisory_xact_lock(1)")

    with parties_of(shop) as parties:
        gate = parties.open()
        gate.sql("SELECT pg_advisory_xact_lock(1)")
        for _ in range(3):
            handler = asyncio.create_task(work())
            await asyncio.to_thread(parties.wait_for_blocked_by, gate.pid)
            handler.cancel()
            with pytest.raises(asyncio.CancelledError):
                await handler
    assert shop.ledger() == []
    assert shop.records() == []

    await charge(small, a, kind, "A again")
    assert shop.ledger() == ["A again"]


@on_async_postgres_kinds
async def test_a_handler_cancelled_at_commit_gets_both_or_neither(
    shop: Shop, small: Database, kind: Kind
) -> None:
    shop.sql(SLOW_COMMIT)
    shop.enqueue()
    a = shop.claim_one("A")

    with parties_of(shop) as parties:
        gate = parties.open()
        gate.sql("SELECT pg_advisory_xact_lock(1)")
        handler = asyncio.create_task(charge(small, a, kind, "A"))
        await asyncio.to_thread(parties.wait_for_blocked_by, gate.pid)
        handler.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handler

    committed = bool(shop.records())
    assert shop.ledger() == (["A"] if committed else [])
    shop.recover(a)
    if not committed:
        await charge(small, shop.claim_one("B"), kind, "B")
    assert len(shop.ledger()) == 1


# -- the planner's settings


@on_postgres_kinds
async def test_a_handler_has_the_planner_settings_of_its_database(shop: Shop, kind: Kind) -> None:
    """jobq's connections never scan a table for its own statements; a handler's may want to."""
    shop.enqueue_many(2)
    for worker in "AB":
        lease = shop.claim_one(worker)
        async with boundary(shop.database, lease, kind) as hand:
            await hand.charge(lease, worker)
            await hand.execute("SELECT 1 / (current_setting('enable_seqscan') = 'on')::int")

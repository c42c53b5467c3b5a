"""Effects that follow each other on one connection: one message commits the first and begins the
next, and what becomes of one says nothing about the other."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from jobq.commit import Relay
from jobq.errors import EffectRolledBack, LeaseLost
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import parties_of
from jobq.protocol.values import Lease
from tests.contract.hands import Kind, boundary, done, on_driver_kinds, on_every_kind

RECORDED = "SELECT job_id FROM jobq.commit_records ORDER BY job_id"


@pytest.fixture
def is_every_commit_charged() -> bool:
    return True


@pytest_asyncio.fixture(autouse=True)
async def async_side(shop: Shop) -> AsyncIterator[None]:
    """The shop's connections that belong to the test's event loop end with it."""
    yield
    await shop.database.aclose()


def relay_to(following: Lease) -> Relay:
    """A relay that knows of one attempt to come."""
    return Relay(lambda lease, kind: None if lease == following else following)


@on_every_kind
async def test_two_effects_in_a_row_are_both_committed(shop: Shop, kind: Kind) -> None:
    shop.enqueue_many(2)
    a, b = shop.claim_one("A"), shop.claim_one("B")
    relay = relay_to(b)

    async with boundary(shop.database, a, kind, relay) as hand:
        await hand.charge(a, "A")
    async with boundary(shop.database, b, kind, relay) as hand:
        await hand.charge(b, "B")

    assert shop.ledger() == ["A", "B"]
    assert shop.records() == [(a.token, "committed"), (b.token, "committed")]
    assert relay.left_over(None) is None


@on_driver_kinds
async def test_the_message_that_commits_an_effect_begins_the_next(shop: Shop, kind: Kind) -> None:
    shop.enqueue_many(2)
    a, b = shop.claim_one("A"), shop.claim_one("B")
    relay = relay_to(b)

    async with boundary(shop.database, a, kind, relay) as hand:
        await hand.charge(a, "A")
        first = hand.handle
    assert shop.ledger() == ["A"], "committed, whatever becomes of the next"
    assert shop.sql(RECORDED) == [(a.job_id,)], "the next one's record is nobody else's to see"
    assert first.info.transaction_status == TransactionStatus.INTRANS

    with pytest.raises(RuntimeError):
        async with boundary(shop.database, b, kind, relay) as hand:
            assert hand.handle is first
            await hand.charge(b, "B")
            raise RuntimeError("the handler failed")
    assert shop.ledger() == ["A"]
    assert shop.sql(RECORDED) == [(a.job_id,)]


@on_driver_kinds
async def test_a_next_effect_that_is_refused_undoes_nothing(shop: Shop, kind: Kind) -> None:
    shop.enqueue_many(2)
    a, b = shop.claim_one("A"), shop.claim_one("B")
    shop.recover(b)
    relay = relay_to(b)

    async with boundary(shop.database, a, kind, relay) as hand:
        await hand.charge(a, "A")
    with pytest.raises(LeaseLost):
        async with boundary(shop.database, b, kind, relay):
            pytest.fail("refused before the handler does any work")

    assert shop.ledger() == ["A"]
    assert relay.left_over(None) is None


@on_driver_kinds
async def test_a_next_effect_that_cannot_begin_undoes_nothing_and_begins_anew(
    shop: Shop, kind: Kind
) -> None:
    shop.enqueue_many(2)
    a, b = shop.claim_one("A"), shop.claim_one("B")
    relay = relay_to(b)

    with parties_of(shop) as parties:
        other = parties.open()
        async with boundary(shop.database, a, kind, relay) as hand:
            await hand.charge(a, "A")
            await hand.execute("SET lock_timeout = '50ms'")
            other.run(shop.database.store.settle(b))  # holds the next one's lease
    assert shop.ledger() == ["A"]
    assert relay.left_over(b) is None
    assert relay.take(b) is None, "it was not begun"

    async with boundary(shop.database, b, kind, relay) as hand:
        await hand.charge(b, "B")
    assert shop.ledger() == ["A", "B"]


@on_driver_kinds
async def test_plans_that_the_session_forgot_are_made_anew(shop: Shop, kind: Kind) -> None:
    shop.enqueue_many(2)
    a, b = shop.claim_one("A"), shop.claim_one("B")
    relay = relay_to(b)

    async with boundary(shop.database, a, kind, relay) as hand:
        await hand.charge(a, "A")
        await hand.execute("DEALLOCATE ALL")
    assert shop.ledger() == ["A"]
    async with boundary(shop.database, b, kind, relay) as hand:
        await hand.charge(b, "B")
    assert shop.ledger() == ["A", "B"]


@on_driver_kinds
@pytest.mark.parametrize(
    ("last", "error"),
    [
        ("INSERT INTO later VALUES (1, 404)", psycopg.IntegrityError),
        ("ROLLBACK", EffectRolledBack),
    ],
)
async def test_an_effect_that_cannot_commit_begins_no_other(
    shop: Shop, kind: Kind, last: str, error: type[Exception]
) -> None:
    shop.sql(
        "CREATE TABLE later (id int PRIMARY KEY, "
        "other int REFERENCES later DEFERRABLE INITIALLY DEFERRED)"
    )
    shop.enqueue_many(2)
    a, b = shop.claim_one("A"), shop.claim_one("B")
    relay = relay_to(b)

    with pytest.raises(error):
        async with boundary(shop.database, a, kind, relay) as hand:
            await hand.execute(last)
    assert relay.take(b) is None

    async with boundary(shop.database, b, kind, relay) as hand:
        await hand.charge(b, "B")
    assert shop.ledger() == ["B"]


@on_driver_kinds
async def test_what_a_handler_set_on_its_connection_does_not_outlive_it(
    shop: Shop, kind: Kind
) -> None:
    shop.enqueue_many(2)
    a, b = shop.claim_one("A"), shop.claim_one("B")
    relay = relay_to(b)

    async with boundary(shop.database, a, kind, relay) as hand:
        hand.handle.row_factory = dict_row
        await hand.charge(a, "A")
    async with boundary(shop.database, b, kind, relay) as hand:
        await hand.charge(b, "B")
        cursor = await done(hand.handle.execute("SELECT 1 AS one"))
        assert await done(cursor.fetchone()) == (1,)

"""FM_009: the connection is lost at COMMIT, and nobody knows whether it took place.

Worker A has charged the customer and sends COMMIT. The connection breaks: a failover, a firewall, a
cable. Either the server has committed and its answer is lost, or COMMIT never arrived. A sees the
same error in both cases. If it reports a failure, the customer may be charged twice; if it reports
a success, perhaps never.

The fix is not to guess (invariant I2): the record is committed with the effect, so jobq asks the
database for it, on another connection, once the old transaction has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from jobq.commit import commit_effect_idempotent
from jobq.database.base import Database
from jobq.database.open import open_database
from jobq.database.url import parse_url
from jobq.failure_modes.fm_009_ambiguous_commit import optimistic_store, play, reproduce
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.proxy import Cut, Proxy, proxy_to
from jobq.failure_modes.shop import Shop, charge
from jobq.failure_modes.transactions import BLOCKED_BY, WAIT_S, Parties, wait_until
from jobq.protocol.states import AttemptEnd, State
from jobq.protocol.values import Lease
from jobq.store import PostgresStore
from jobq.store.step import Step


@pytest.fixture
def proxy(postgres_shop: Shop) -> Iterator[Proxy]:
    with proxy_to(postgres_shop.url) as proxy:
        yield proxy


@pytest.fixture
def wired(proxy: Proxy) -> Iterator[Database]:
    """The shop's database by way of the proxy."""
    database = open_database(parse_url(proxy.url), schema="jobq")
    try:
        yield database
    finally:
        database.close()


def test_reproduces_a_second_charge_when_the_answer_is_lost(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop)
    after, before = found.seen.values()

    assert after["has_cut"]
    assert before["has_cut"]
    assert after["a_was_told"] == before["a_was_told"] == "failure"
    assert after["charged_by"] == ["A", "B"], "it had taken place"
    assert before["charged_by"] == ["B"], "here the guess was right"
    assert found.is_harmed


def test_reproduces_a_lost_charge_when_the_guess_is_the_other_one(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop, optimistic_store)
    after, before = found.seen.values()

    assert after["a_was_told"] == before["a_was_told"] == "success"
    assert after["charged_by"] == ["A"]
    assert (before["charged_by"], before["state"]) == ([], State.DONE)
    assert found.is_harmed


def test_prevented_by_asking_for_the_record(postgres_shop: Shop) -> None:
    found = play(postgres_shop)
    after, before = found.seen.values()

    assert after["has_cut"]
    assert before["has_cut"]
    assert (after["a_was_told"], after["charged_by"]) == ("success", ["A"])
    assert (before["a_was_told"], before["charged_by"]) == ("failure", ["B"])
    assert after["state"] is before["state"] is State.DONE
    assert not found.is_harmed
    assert not violations(postgres_shop, is_every_commit_charged=True)


# Fires at COMMIT and waits there for a lock that the test holds.
SLOW_COMMIT = """
CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_advisory_xact_lock(9); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON ledger
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_at_commit();
"""


def test_prevented_when_the_client_is_gone_before_the_server_is_done(
    postgres_shop: Shop, parties: Parties, proxy: Proxy, wired: Database
) -> None:
    """COMMIT is under way on the server while A asks: the lease's lock says when it has ended."""
    shop = postgres_shop
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.sql(SLOW_COMMIT)
    gate = parties.open()
    gate.sql("SELECT pg_advisory_xact_lock(9)")

    def charge_and_lose_the_connection() -> None:
        with commit_effect_idempotent(wired, a, psycopg.Connection) as connection:
            charge(connection, a, "A")
            proxy.cut(Cut.AT_COMMIT)

    with ThreadPoolExecutor(1) as thread:
        told = thread.submit(charge_and_lose_the_connection)
        try:
            (committing,) = parties.wait_for_blocked_by(gate.pid)
            wait_until(
                lambda: told.done() or bool(shop.sql(BLOCKED_BY.format(pid=committing))),
                "A to be told something, or to wait for its old transaction",
            )
            assert not told.done(), "A was answered while its COMMIT was under way"
        finally:
            gate.commit()
        told.result(WAIT_S)

    shop.finalize(a)
    assert proxy.has_cut
    assert shop.state(job_id) is State.DONE
    assert shop.ledger() == ["A"]


def test_prevented_when_another_attempt_has_committed_meanwhile(
    postgres_shop: Shop, proxy: Proxy, wired: Database
) -> None:
    """A's COMMIT never arrived, and B has committed when A asks: there is a record, not A's."""
    shop = postgres_shop
    shop.enqueue()
    a = shop.claim_one("A")

    class Slow(PostgresStore):
        def settle(self, lease: Lease) -> Step[bool]:
            shop.recover(a)
            effect = shop.effect(shop.claim_one("B"), "B")
            effect.charge()
            effect.commit()
            return (yield from super().settle(lease))

    wired.store = Slow()
    with (
        pytest.raises(psycopg.OperationalError),
        commit_effect_idempotent(wired, a, psycopg.Connection) as connection,
    ):
        charge(connection, a, "A")
        proxy.cut(Cut.BEFORE_COMMIT)

    assert shop.ledger() == ["B"]
    assert len(shop.fail(a).refused) == 1


class Pessimist(PostgresStore):
    """Has the record, and does not go by it."""

    def settle(self, lease: Lease) -> Step[bool]:
        yield from super().settle(lease)
        return False


def test_a_wrong_guess_would_end_in_the_record_too(postgres_shop: Shop) -> None:
    """Beneath it all stands the unique record: a failure reported for a commit is not believed."""
    shop = postgres_shop
    shop.weaken(lambda _: Pessimist())

    found = play(shop)
    after, _ = found.seen.values()

    assert after["a_was_told"] == "failure"
    assert (after["charged_by"], after["state"]) == (["A"], State.DONE)
    assert [ended.end for ended in shop.attempts(1)] == [AttemptEnd.HEALED]
    assert not found.is_harmed

"""FM_027: effects follow each other on one connection, and the wrong job is told of an error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg

from jobq.commit import Relay, commit_effect_idempotent
from jobq.database.message import begin_with
from jobq.database.url import conninfo
from jobq.errors import EffectRolledBack
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import parties_of
from jobq.protocol.values import Lease
from jobq.store.step import first_of

ORDERS = """
CREATE TABLE orders (id bigint PRIMARY KEY,
                     replaces bigint REFERENCES orders DEFERRABLE INITIALLY DEFERRED)
"""
SOON = "SET lock_timeout = '200ms'"
"""So that a record whose lease another session holds is an error of the message that begins it."""


class Charge(NamedTuple):
    """A job of the chain, and what its effect has in it."""

    name: str
    lease: Lease
    is_bad: bool
    """Whether it names an order that there is not: the constraint is looked at by COMMIT."""

    def apply(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(SOON)
        connection.execute(f"INSERT INTO ledger VALUES ({self.lease.job_id}, '{self.name}')")
        replaces = 404 if self.is_bad else None
        connection.execute("INSERT INTO orders VALUES (%s, %s)", (self.lease.job_id, replaces))


Told = dict[str, str]
Between = Callable[[], object]
Chain = Callable[[Shop, Charge, Charge, Between], Told]
"""Runs two effects in a row and says what the worker believes of each; `between` is called when
the first is over."""


def by_message(shop: Shop, first: Charge, second: Charge, between: Between) -> Told:
    """COMMIT, and what begins the next effect, are one message, and it is the first job's: it was
    sent when the first was over, so its error is the first one's."""
    told: Told = {}
    with psycopg.connect(conninfo(shop.database.url), autocommit=True) as connection:
        connection.execute("; ".join(_beginning(shop, first)).encode())
        first.apply(connection)
        try:
            connection.execute("; ".join(["COMMIT", *_beginning(shop, second)]).encode())
        except psycopg.Error:
            told[first.name] = "failed"
            connection.execute("ROLLBACK")
            between()
            connection.execute("; ".join(_beginning(shop, second)).encode())
        else:
            told[first.name] = "done"
            between()
        told[second.name] = _ended(connection, second)
    return told


def by_pipeline(shop: Shop, first: Charge, second: Charge, between: Between) -> Told:
    """Nothing is waited for that is not needed: the first job is done when its COMMIT is sent, and
    an error is raised where an answer is read next."""
    told: Told = {}
    with psycopg.connect(conninfo(shop.database.url), autocommit=True) as connection:
        with suppress(psycopg.Error), connection.pipeline():
            try:
                connection.execute("BEGIN")
                first.apply(connection)
                connection.execute("COMMIT")
                told[first.name] = "done"
            except psycopg.Error:
                told[first.name] = "failed"
            try:
                connection.execute("BEGIN")
                connection.execute("SELECT 1").fetchone()
                second.apply(connection)
                connection.execute("COMMIT")
                told[second.name] = "done"
            except psycopg.Error:
                told[second.name] = "failed"
        between()
    return told


def by_jobq(shop: Shop, first: Charge, second: Charge, between: Between) -> Told:
    """The same message as `by_message`'s: a worker does this where it knows what comes next."""
    relay = Relay(lambda lease, _: second.lease if lease == first.lease else None)
    told = {first.name: _attempt(shop, first, relay)}
    between()
    return told | {second.name: _attempt(shop, second, relay)}


def _attempt(shop: Shop, charge: Charge, relay: Relay) -> str:
    boundary = commit_effect_idempotent(shop.database, charge.lease, psycopg.Connection, relay)
    try:
        with boundary as connection:
            charge.apply(connection)
    except (psycopg.Error, EffectRolledBack):
        return "failed"
    return "done"


def _beginning(shop: Shop, charge: Charge) -> list[str]:
    return begin_with(first_of(shop.database.store.commit_record(charge.lease)), {})


def _ended(connection: psycopg.Connection[Any], charge: Charge) -> str:
    try:
        charge.apply(connection)
        connection.execute("COMMIT")
    except psycopg.Error:
        return "failed"
    return "done"


class Fault(NamedTuple):
    """Where the chain of A and B breaks."""

    bad: str = ""
    """Whose COMMIT is refused."""
    held: bool = False
    """Whether another session holds B's lease while A's COMMIT is sent."""


FAULTS: dict[str, Fault] = {
    "nothing": Fault(),
    "A's COMMIT": Fault(bad="A"),
    "B's record": Fault(held=True),
    "B's COMMIT": Fault(bad="B"),
}


def play(shop: Shop, chain: Chain = by_jobq) -> Finding:
    """Two charges in a row for each fault: what the worker believes, and what is in the ledger."""
    shop.sql(ORDERS)
    facts = {name: _play_one(shop, chain, fault) for name, fault in FAULTS.items()}
    wrong = [
        f"{name} failed, and {job} is {told} though it "
        + ("was charged" if job in seen["charged"] else "was not charged")
        for name, seen in facts.items()
        for job, told in seen["told"].items()
        if (told == "done") is not (job in seen["charged"])
    ]
    return Finding(
        is_harmed=bool(wrong),
        detail="; ".join(wrong)
        or f"each of two jobs in a chain was told its own outcome, at {len(FAULTS)} positions",
        seen=facts,
    )


def _play_one(shop: Shop, chain: Chain, fault: Fault) -> dict[str, Any]:
    shop.enqueue_many(2)
    a, b = (
        Charge(name, claimed.lease, fault.bad == name)
        for name, claimed in zip("AB", shop.claim("W", 2), strict=True)
    )
    before = len(shop.ledger())
    with parties_of(shop) as parties:
        other = parties.open()
        if fault.held:
            other.run(shop.database.store.settle(b.lease))
        told = chain(shop, a, b, other.rollback)
    charged = shop.sql(f"SELECT worker FROM ledger WHERE job_id IN ({a.lease[0]}, {b.lease[0]})")
    assert len(shop.ledger()) - before == len(charged)
    return {"told": told, "charged": sorted(worker for (worker,) in charged)}


def reproduce(shop: Shop) -> Finding:
    """On a chain in psycopg's pipeline mode."""
    return play(shop, by_pipeline)


FM = FailureMode(
    id="FM_027",
    title="error blamed on the wrong job",
    invariants=("I2", "I3"),
    reproduce=reproduce,
    prevent=play,
    not_on_sqlite="each statement is answered before the next is given, COMMIT as well",
)

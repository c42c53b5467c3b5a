"""FM_008: a handler swallows the duplicate's error inside a savepoint and commits its effect.

The right ingredients in the wrong order: a commit record with a unique key, in the same
transaction as the effect. But the effect comes first, the record last, and the record stands in a
savepoint whose error is caught, since "it is recorded already" sounds harmless. The savepoint is
rolled back, the transaction is fine, and the charge is committed a second time.

The fix is that the record is jobq's (invariant I2): it comes first, outside any savepoint the
handler can open, and its refusal is no `Exception`, so `except Exception` does not stop it.
"""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from jobq.errors import AlreadyCommitted, Refusal
from jobq.failure_modes.fm_008_savepoint_swallow import (
    charge,
    play,
    record_first,
    record_unchecked,
    reproduce,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from jobq.job import Fate, Job
from jobq.protocol.states import State
from jobq.protocol.values import ClaimedJob


def test_reproduces_two_charges_and_one_record(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.seen["charged_by"] == ["A", "B"]
    assert found.seen["records"] == 1, "the unique key held, and nobody asked it"
    assert found.seen["refusal"] is None
    assert found.seen["state"] is State.DONE
    assert found.is_harmed


def test_reproduces_the_same_with_a_conflict_that_nobody_looks_at(shop: Shop) -> None:
    found = play(shop, record_unchecked)

    assert found.seen["charged_by"] == ["A", "B"]
    assert found.seen["records"] == 1
    assert found.is_harmed


def test_prevented_past_an_except_clause(shop: Shop) -> None:
    found = play(shop)

    assert found.seen["charged_by"] == ["B"]
    assert found.seen["refusal"] == "AlreadyCommitted"
    assert not found.is_harmed
    assert not violations(shop, is_every_commit_charged=True)


def swallow_everything(shop: Shop, claimed: ClaimedJob, worker: str) -> Refusal | None:
    """A handler that nothing gets past: `except BaseException`, and it says that all went well."""
    fate = Fate()
    try:
        with Job(claimed, shop.database, fate).commit() as db:
            charge(db, claimed, worker)
    except BaseException:  # noqa: BLE001
        pass
    return fate.refusal


def test_prevented_when_the_refusal_itself_is_swallowed(shop: Shop) -> None:
    """The block never ran, so nothing was charged; and the worker has the refusal on record."""
    found = play(shop, swallow_everything)

    assert found.seen["charged_by"] == ["B"]
    assert found.seen["refusal"] == "AlreadyCommitted"


def test_except_exception_does_not_let_a_duplicate_go_on(shop: Shop) -> None:
    """What comes after the block belongs to the effect too: here, a letter to the customer."""
    shop.enqueue()
    (a,) = shop.claim("A")
    letters = []

    def handle(worker: str) -> None:
        try:
            with Job(a, shop.database, Fate()).commit() as db:
                charge(db, a, worker)
        except Exception:  # noqa: BLE001
            pass
        letters.append(worker)

    handle("A")
    with pytest.raises(AlreadyCommitted):
        handle("A again")

    assert letters == ["A"]


def test_a_savepoint_of_the_handlers_confines_only_what_it_encloses(shop: Shop) -> None:
    """An error swallowed in the right way undoes its savepoint, and neither record nor charge."""
    shop.sql("CREATE UNIQUE INDEX once ON ledger (job_id, worker)")
    shop.enqueue()
    (a,) = shop.claim("A")

    with Job(a, shop.database, Fate()).commit() as db:
        charge(db, a, "A")
        with pytest.raises(IntegrityError), db.begin_nested():
            charge(db, a, "A")

    assert shop.ledger() == ["A"]
    assert shop.records() == [(a.lease.token, "committed")]


def test_rolling_back_to_a_savepoint_by_hand_does_not_reach_the_record(shop: Shop) -> None:
    shop.enqueue()
    (a,) = shop.claim("A")

    with Job(a, shop.database, Fate()).commit() as db:
        db.execute(text("SAVEPOINT mine"))
        charge(db, a, "undone")
        db.execute(text("ROLLBACK TO SAVEPOINT mine"))
        charge(db, a, "A")

    assert shop.ledger() == ["A"]
    assert record_first(shop, a, "again") is not None
    assert shop.ledger() == ["A"]

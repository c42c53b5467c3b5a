"""FM_036: COMMIT is answered with ROLLBACK, and every driver reports success.

A handler charges the customer and then writes a statistic, in a `try` whose `except` passes: it is
only a statistic. The statistic fails. On PostgreSQL the whole transaction has failed with it, and
the COMMIT that follows rolls it back. The server says so, in the one word of its answer; psycopg's
commit() and transaction() and SQLAlchemy's begin() do not pass it on. The worker sees no error and
marks the job done. Nobody was charged.

The fix is a question before the COMMIT (invariants I2, I3): is the record there, written by the
very transaction that is about to commit? Otherwise EffectRolledBack is raised, and the job retried.
"""

from __future__ import annotations

import psycopg
import pytest

from jobq.commit import commit_effect_idempotent
from jobq.database.url import conninfo
from jobq.failure_modes.fm_036_commit_that_was_a_rollback import (
    BOUNDARIES,
    DRIVERS,
    attempt,
    play,
    reproduce,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop, charge
from jobq.protocol.states import AttemptEnd, State


def test_reproduces_a_job_that_is_done_and_has_no_effect(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop)

    assert set(found.seen) == set(DRIVERS)
    for seen in found.seen.values():
        assert seen == {"a_was_told": "success", "charged_by": [], "state": State.DONE}
    assert postgres_shop.ledger() == []
    assert found.is_harmed


def test_reproduces_the_servers_answer(postgres_shop: Shop) -> None:
    """What the drivers do not pass on is there to be seen."""
    with psycopg.connect(conninfo(postgres_shop.database.url), autocommit=True) as connection:
        connection.execute("BEGIN")
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("INSERT INTO statistics VALUES (1)")
        assert connection.execute("COMMIT").statusmessage == "ROLLBACK"


def test_prevented_by_asking_before_the_commit(postgres_shop: Shop) -> None:
    found = play(postgres_shop)

    assert set(found.seen) == set(BOUNDARIES)
    for seen in found.seen.values():
        assert seen == {"a_was_told": "rolled back", "charged_by": ["B"], "state": State.DONE}
    assert not found.is_harmed
    assert not violations(postgres_shop, is_every_commit_charged=True)


def test_prevented_and_counted_as_a_failed_attempt(postgres_shop: Shop) -> None:
    """A handler that swallows the error every time ends as a dead job, not as a done one."""
    shop = postgres_shop
    job_id = shop.enqueue(max_attempts=3)
    for _ in range(3):
        attempt(shop, BOUNDARIES["Session"], shop.claim_one("A"), "A", goes_wrong=True)
        shop.promote()

    assert shop.state(job_id) is State.DEAD
    assert [ended.end for ended in shop.attempts(job_id)] == [AttemptEnd.FAILED] * 3
    assert shop.ledger() == []


def test_an_error_confined_to_a_savepoint_may_be_swallowed(postgres_shop: Shop) -> None:
    """The way to write the statistic: then there is nothing to complain about."""
    shop = postgres_shop
    shop.enqueue()
    a = shop.claim_one("A")

    with commit_effect_idempotent(shop.database, a, psycopg.Connection) as connection:
        charge(connection, a, "A")
        with pytest.raises(psycopg.errors.UndefinedTable), connection.transaction():
            connection.execute("INSERT INTO statistics VALUES (1)")

    assert shop.ledger() == ["A"]


def test_on_sqlite_an_error_undoes_one_statement(sqlite_shop: Shop) -> None:
    """So there the swallowed error costs the statistic and nothing else."""
    found = play(sqlite_shop, {"Session": BOUNDARIES["Session"]})

    assert found.seen["Session"] == {
        "a_was_told": "success",
        "charged_by": ["A"],
        "state": State.DONE,
    }
    assert not violations(sqlite_shop, is_every_commit_charged=True)

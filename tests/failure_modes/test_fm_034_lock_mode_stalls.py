"""FM_034: a lock that looks harmless stops every claim, or hides a job from them.

Somebody looks at the queue in psql and goes to lunch: an open transaction, and the weakest lock
there is. A deploy adds a column. ALTER TABLE waits for the reader, and whoever comes after waits
behind ALTER TABLE: every claim and every enqueue, and SKIP LOCKED skips rows, not tables. Or
somebody inserts a row that refers to a job by a foreign key, which locks the job's row, and a claim
with FOR UPDATE SKIP LOCKED passes over it.

The fix is that a migration waits for a second and gives up, lets the claims through, tries again,
and at last says who is in its way; and that a claim locks a row which nobody refers to.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from jobq.failure_modes.fm_034_lock_mode_stalls import (
    CLAIM_FROM_JOBS,
    HAS_COLUMN,
    NOTES,
    play,
    reproduce,
    upgrade,
)
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import WAIT_S, Parties


def test_reproduces_claims_that_are_stopped_and_a_job_that_is_hidden(postgres_shop: Shop) -> None:
    found = reproduce(postgres_shop)

    assert found.is_harmed
    assert not found.seen["claimed_beside_reader"]
    assert not found.seen["claimed_beside_note"]
    assert found.seen["told"] == "done", "when the reader had gone, and not before"


def test_prevented_by_giving_up_and_by_locking_what_nobody_refers_to(postgres_shop: Shop) -> None:
    found = play(postgres_shop)

    assert not found.is_harmed
    assert found.seen["claimed_beside_reader"]
    assert found.seen["claimed_beside_note"]
    told = found.seen["told"]
    assert "could not lock jobq's tables in 5 tries of 1 s, and changed nothing" in told
    assert f"held by process {found.seen['pid_of_reader']} (" in told
    assert "idle in transaction" in told
    assert postgres_shop.sql(HAS_COLUMN) == [(0,)]


def test_prevented_and_migrated_when_the_reader_is_gone(
    postgres_shop: Shop, parties: Parties, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One try in vain is not the end of it."""
    monkeypatch.setattr("jobq.schema.LOCK_PAUSE_S", 0.2)
    shop = postgres_shop
    reader = parties.open()
    reader.sql("SELECT count(*) FROM jobq.ready")
    with ThreadPoolExecutor(1) as pool:
        migrating = pool.submit(upgrade, shop)
        (first,) = parties.wait_for_blocked_by(reader.pid)
        job_id = shop.enqueue()  # waits behind the migration, and no longer than its first try
        assert [claimed.lease.job_id for claimed in shop.claim("A")] == [job_id]
        (second,) = parties.wait_for_blocked_by(reader.pid)
        reader.rollback()

        assert migrating.result(WAIT_S) == "done"
    assert first != second, "each try is a transaction of its own"
    assert shop.sql(HAS_COLUMN) == [(1,)]


def test_a_lock_that_leaves_the_key_alone_is_not_hidden_from(
    postgres_shop: Shop, parties: Parties
) -> None:
    """For who does lock rows that others refer to: FOR NO KEY UPDATE is enough, and passes."""
    shop = postgres_shop
    shop.sql(NOTES)
    job_id = shop.enqueue()
    writing = parties.open()
    writing.sql(f"INSERT INTO notes VALUES (0, {job_id})")
    hidden = CLAIM_FROM_JOBS.format(job_id=job_id)

    assert shop.sql(hidden) == []
    assert shop.sql(hidden.replace("FOR UPDATE", "FOR NO KEY UPDATE")) == [(job_id,)]


def test_a_job_that_a_note_refers_to_is_run_and_finalized(
    postgres_shop: Shop, parties: Parties
) -> None:
    """None of a job's steps waits for what refers to it; only pruning leaves it alone."""
    shop = postgres_shop
    shop.sql(NOTES)
    job_id = shop.enqueue()
    writing = parties.open()
    writing.sql(f"INSERT INTO notes VALUES (0, {job_id})")

    lease = shop.claim_one("A")
    effect = shop.effect(lease, "A")
    effect.charge()
    effect.commit()
    shop.finalize(lease)

    assert shop.ledger() == ["A"]
    writing.commit()

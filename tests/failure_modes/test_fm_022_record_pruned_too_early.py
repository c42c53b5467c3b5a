"""FM_022: what was decided about a job is deleted while somebody still has to be told.

Old rows have to go, and the first thing that comes to mind is to delete what is older than a week.
But age is not the question. A job can be old and not over: its retry is due tomorrow; an attempt of
it stands still, and does not know that the job was cancelled; its effect is committed, its worker
died before it could finalize, and no other has run since. The record is what each of them will be
told by. Without it the retry has no job, the cancelled job is charged, and the committed one is
charged again.

jobq prunes a job together with its record, and only where one snapshot shows the record and no
lease (invariants I1, I2, I6 and I9): then the job is in no place, and nobody can put it in one.
"""

from __future__ import annotations

import signal

import pytest

from jobq import InvalidOption, Retention, State
from jobq.failure_modes.fm_022_record_pruned_too_early import (
    AGE_S,
    HOURLY,
    charges_of,
    commit,
    play,
    reproduce,
    weaken,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import Parties, interrupted
from jobq.protocol.retention import MIN_AGE_S, RetentionPolicy
from jobq.store.dead import revive
from jobq.store.step import Statement
from tests.worker.charges import gated
from tests.worker.conftest import Site, wait_for


def test_reproduces_what_each_old_job_was_waiting_for(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.is_harmed
    assert found.seen["committed"] == 2, "charged again on the lease that was left"
    assert found.seen["cancelled"] == 1
    assert found.seen["retried"] == 0, "its retry found no job"


def test_prevented_by_asking_whether_the_job_is_over(shop: Shop) -> None:
    found = play(shop)

    assert not found.is_harmed
    assert found.seen == {"committed": 1, "cancelled": 0, "retried": 1, "in_the_end": 3}
    assert violations(shop, is_every_commit_charged=True) == {}


def test_reproduces_a_second_run_when_the_record_goes_by_itself(shop: Shop) -> None:
    """The records pruned, the jobs kept for the dashboard; then the first worker since starts."""
    shop.enqueue()
    a = shop.claim_one("A")
    commit(shop, a, "A")
    shop.sql("DELETE FROM jobq.commit_records")
    recovered = shop.recover(a)
    commit(shop, shop.claim_one("B"), "B")

    assert recovered.retried == (a.job_id,)
    assert shop.ledger() == ["A", "B"]


def test_prevented_when_no_worker_ran_for_long(shop: Shop) -> None:
    """The pruner comes first, the reconciler second: the job is finalized, and goes next time."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    commit(shop, a, "A")
    shop.grow_old(job_id, age_s=AGE_S)
    assert shop.prune(HOURLY).total == 0

    assert shop.recover(a).retried == ()
    assert shop.state(job_id) is State.DONE
    assert shop.ledger() == ["A"]
    assert shop.prune(HOURLY).total == 1


def prune_while_an_effect_is_open(shop: Shop, parties: Parties) -> int:
    """The pruner cannot see the record that is being written. Return the job."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    attempt, pruner = parties.open(), parties.open()
    attempt.run(shop.database.store.commit_record(a))
    attempt.sql(f"INSERT INTO ledger VALUES ({job_id}, 'A')")
    shop.grow_old(job_id, age_s=AGE_S)
    pruner.run(shop.database.store.prune(HOURLY, limit=100))
    pruner.commit()
    attempt.commit()
    assert charges_of(shop, job_id) == 1
    return job_id


def test_reproduces_an_effect_of_a_job_that_is_gone(postgres_shop: Shop, parties: Parties) -> None:
    shop = postgres_shop
    shop.weaken(weaken)
    job_id = prune_while_an_effect_is_open(shop, parties)

    assert shop.database.run(shop.database.store.job(job_id)) is None


def test_prevented_while_an_effect_is_open(postgres_shop: Shop, parties: Parties) -> None:
    job_id = prune_while_an_effect_is_open(postgres_shop, parties)

    assert postgres_shop.state(job_id) is State.COMMITTED


def test_prevented_when_a_dead_job_is_retried_under_the_pruners_eyes(
    postgres_shop: Shop, parties: Parties
) -> None:
    """It has found the job over; before it has its lock, somebody sends the job round again."""
    shop, store = postgres_shop, postgres_shop.database.store
    job_id = shop.enqueue(max_attempts=1)
    shop.fail(shop.claim_one("A"), retry_delay_s=None)
    shop.grow_old(job_id, age_s=AGE_S)
    pruner = parties.open()

    def is_locking(statement: Statement) -> bool:
        return "FOR UPDATE SKIP LOCKED" in statement.sql

    def retried() -> None:
        shop.database.run(revive(store.portable, [job_id]))

    step = interrupted(store.prune(HOURLY, limit=100), is_locking, retried)
    assert pruner.run(step).total == 0
    pruner.commit()

    shop.promote()
    commit(shop, shop.claim_one("B"), "B")
    assert shop.ledger() == ["B"]


def test_prevented_whatever_a_policy_says(shop: Shop) -> None:
    """An attempt may ask for its record for as long as it takes to notice a lost connection."""
    with pytest.raises(InvalidOption, match="lost the answer to its COMMIT"):
        Retention(committed_s=MIN_AGE_S - 1)

    impatient = Retention(MIN_AGE_S, MIN_AGE_S, MIN_AGE_S)
    object.__setattr__(impatient, "committed_s", 0.0)
    job_id = shop.enqueue()
    shop.complete(shop.claim_one("A"))
    shop.grow_old(job_id, age_s=MIN_AGE_S - 60)
    assert shop.prune(RetentionPolicy(otherwise=impatient)).total == 0


def test_prevented_when_a_worker_process_is_frozen(postgres_site: Site) -> None:
    """SIGSTOP in a handler; the job is cancelled, and old, and pruned if it may be; SIGCONT.

    Not on SQLite, where a process that is stopped at the wrong moment holds the write lock.
    """
    site = postgres_site
    job = gated.enqueue(str(site.folder))
    worker = site.start_worker()
    wait_for((site.folder / f"started-{job.id}-1").exists, "the handler to start", site)
    worker.send_signal(signal.SIGSTOP)
    shop = site.shop()
    assert site.app.cancel(job.id)
    shop.grow_old(job.id, age_s=AGE_S)

    assert shop.prune(HOURLY).total == 0
    (site.folder / "go").touch()
    worker.send_signal(signal.SIGCONT)
    wait_for(lambda: site.rows("leases") == [], "the worker to let go of the job", site)

    assert site.charged() == []
    assert shop.prune(HOURLY).total == 1

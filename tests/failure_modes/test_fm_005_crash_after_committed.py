"""FM_005: a worker dies after its effect was committed and before the job is done.

Worker A commits the charge and is killed before it can mark the job done: SIGKILL, the power, a
deploy that does not wait. For the queue the job is still running. Its lease expires, B gets it, and
B charges the customer again. There is always such a gap where "done" is a second transaction.

The fix is that COMMITTED is durable with the effect (invariants I2, I3), so the reconciler can tell
a job that is done from one that is not. It finalizes it, and no handler runs.
"""

from __future__ import annotations

from pathlib import Path

import psycopg

from jobq import AttemptEnd, State
from jobq.failure_modes.fm_005_crash_after_committed import play, reproduce
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from tests.worker.charges import gated
from tests.worker.conftest import Site, wait_for


def test_reproduces_a_second_charge_by_the_retry(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.seen["state_after_crash"] is State.LEASED, "for the queue it is still running"
    assert found.seen["charged_by"] == ["A", "B"]
    assert found.seen["attempts"] == [AttemptEnd.EXPIRED]
    assert found.seen["state"] is State.DONE
    assert found.is_harmed


def test_prevented_by_finalizing_from_the_record(shop: Shop) -> None:
    found = play(shop)

    assert found.seen["state_after_crash"] is State.COMMITTED
    assert len(found.seen["recovered"].healed) == 1
    assert found.seen["charged_by"] == ["A"]
    assert found.seen["runs"] == 1, "no handler ran again"
    assert found.seen["attempts"] == [AttemptEnd.HEALED], "and the history says what happened"
    assert found.seen["state"] is State.DONE
    assert not found.is_harmed
    assert not violations(shop, is_every_commit_charged=True)


def test_prevented_when_it_was_the_last_attempt(shop: Shop) -> None:
    """Committed and out of attempts is committed: it is not buried."""
    job_id = shop.enqueue(max_attempts=1)
    a = shop.claim_one("A")
    effect = shop.effect(a, "A")
    effect.charge()
    effect.commit()

    recovered = shop.recover(a)

    assert (recovered.healed, recovered.dead) == ((job_id,), ())
    assert shop.records() == [(a.token, "committed")]


def test_prevented_when_the_crash_comes_before_the_commit(shop: Shop) -> None:
    """The other side of the same moment: nothing is committed, and the retry charges once."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    effect = shop.effect(a, "A")
    effect.charge()
    effect.roll_back()  # as the server does when the connection is gone

    assert shop.recover(a).retried == (job_id,)
    effect = shop.effect(shop.claim_one("B"), "B")
    effect.charge()
    effect.commit()

    assert shop.ledger() == ["B"]


# Every way out of `leases` waits while the test holds the lock: a finalize as well.
HOLD_FINALIZE = """
CREATE FUNCTION hold_finalize() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(5); RETURN OLD; END';
CREATE TRIGGER hold_finalize BEFORE DELETE ON jobq.leases
    FOR EACH ROW EXECUTE FUNCTION hold_finalize();
"""
WAITING_FOR_US = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
END_WAITING_FOR_US = """
SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity
WHERE %s = ANY (pg_blocking_pids(pid))
"""


def test_prevented_when_a_worker_process_is_killed_in_the_gap(postgres_site: Site) -> None:
    site = postgres_site
    site.sql(HOLD_FINALIZE)
    job = gated.enqueue(str(site.folder))
    (Path(site.folder) / "go").touch()
    with psycopg.connect(site.url, autocommit=True) as gate:
        gate.execute("SELECT pg_advisory_lock(5)")
        victim = site.start_worker("--concurrency", "1")

        def is_held() -> bool:
            row = gate.execute(WAITING_FOR_US, [gate.info.backend_pid]).fetchone()
            return row is not None and row[0] > 0

        wait_for(is_held, "the worker to be held at its finalize", site)
        assert site.charged() == [job.id]
        assert job.status().state is State.COMMITTED
        victim.kill()
        victim.wait()
        # As the server does when it notices: else it would finalize for a client that is gone.
        gate.execute(END_WAITING_FOR_US, [gate.info.backend_pid])
    site.start_worker("--concurrency", "1")
    site.wait_until_done(1)

    assert site.charged() == [job.id]
    assert [path.name for path in site.folder.glob("started-*")] == [f"started-{job.id}-1"]
    assert [ended.end for ended in site.app.attempts(job.id)] == [AttemptEnd.HEALED]

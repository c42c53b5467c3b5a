"""FM_010: a job that kills its worker is retried for ever.

A handler segfaults, calls os._exit, or eats memory until the kernel kills its process. A queue
that counts an attempt when the failure is reported never hears of it: the lease expires, the job
is claimed again as if for the first time, and the next worker dies. `max_attempts` protects
nobody, and every other job that the worker had in hand suffers with it.

jobq counts an attempt when it is claimed (invariant I7), before the handler can do anything, and
recovery buries the job when the last one is spent.
"""

from __future__ import annotations

from jobq import AttemptEnd, State
from jobq.failure_modes.fm_010_poison_job import MAX_ATTEMPTS, ROUNDS, play, reproduce, starts_of
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop
from tests.worker.charges import charge, kill_own_process
from tests.worker.conftest import Site, wait_for


def test_reproduces_more_workers_killed_than_the_job_has_attempts(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.seen["started"] == ROUNDS, "it would never have ended"
    assert found.seen["state"] is State.READY, "and waits for the next victim"
    assert found.is_harmed


def test_prevented_as_every_claim_counts(shop: Shop) -> None:
    found = play(shop)

    assert found.seen == {"started": MAX_ATTEMPTS, "state": State.DEAD}
    assert not found.is_harmed
    assert violations(shop, is_every_commit_charged=True) == {}


def test_prevented_where_some_attempts_fail_and_others_kill(shop: Shop) -> None:
    """Both kinds of attempt spend the same budget."""
    job_id = shop.enqueue(max_attempts=MAX_ATTEMPTS)
    shop.recover(shop.claim_one("A"))
    shop.fail(shop.claim_one("B"))
    shop.promote()
    shop.recover(shop.claim_one("C"))

    assert shop.state(job_id) is State.DEAD
    ends = [attempt.end for attempt in shop.attempts(job_id)]
    assert ends == [AttemptEnd.EXPIRED, AttemptEnd.FAILED, AttemptEnd.EXPIRED]


def test_prevented_where_a_job_was_given_back_before_it_started(shop: Shop) -> None:
    """A deploy gives prefetched jobs back unspent; that is no way to live longer."""
    job_id = shop.enqueue(max_attempts=1)
    shop.release(shop.claim_one("A"))
    shop.recover(shop.claim_one("B"))

    assert starts_of(shop, job_id) == 2, "the tokens say that it was claimed twice"
    assert shop.state(job_id) is State.DEAD
    assert [attempt.attempt for attempt in shop.attempts(job_id)] == [1]


def test_reproduces_on_worker_processes(site: Site) -> None:
    """SIGKILL from within, the worker's supervisor starting another each time."""
    job = kill_own_process.enqueue()
    worker = site.start_worker("--processes", "2", app="tests.failure_modes.poison:app")
    shop = site.shop()
    wait_for(lambda: starts_of(shop, job.id) > 3, "one death too many", site)
    worker.terminate()
    worker.wait(30)

    assert job.status().state is not State.DEAD
    assert site.app.attempts(job.id) == [], "nothing in the history: nobody ever reported"


def test_prevented_on_worker_processes(site: Site) -> None:
    job, healthy = kill_own_process.enqueue(), charge.enqueue()
    worker = site.start_worker("--processes", "2")
    wait_for(lambda: job.status().state is State.DEAD, "the job to be buried", site)
    wait_for(lambda: healthy.status().state is State.DONE, "the healthy job to be done", site)

    assert job.status().attempts == 3
    ends = [(attempt.attempt, attempt.end) for attempt in site.app.attempts(job.id)]
    assert ends == [(n, AttemptEnd.EXPIRED) for n in (1, 2, 3)]
    assert site.log().count("starting another") >= 3
    assert site.charged() == [healthy.id]
    worker.terminate()
    assert worker.wait(30) == 0

"""FM_021: a worker takes jobs of tasks that it does not have, and spends their attempts.

A rolling deploy: the new web servers enqueue jobs of a new task while the old workers still run.
An old worker takes one, finds no handler, and reports a failure; the retry goes to an old worker
too. By the time that the first new worker starts, the job is dead, without one line of its handler
having run.

In jobq a claim names the tasks that the worker has. What it does not have stays where it is, in its
place in line and with no attempt spent (invariant I7), for the worker that does.
"""

from __future__ import annotations

from jobq import Limit, State
from jobq.failure_modes.fm_021_unknown_task import (
    MAX_ATTEMPTS,
    NEW_CODE,
    NEW_TASK,
    OLD_CODE,
    TURNS,
    play,
    reproduce,
    turn,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import LEASE_S, Shop
from jobq.failure_modes.transactions import Parties
from jobq.protocol.limits import line_of
from jobq.protocol.values import JobRequest
from jobq.store.base import Store
from jobq.store.limits import LimitedClaim, claim_limited, declare
from tests.failure_modes.refunds import app as tomorrow
from tests.failure_modes.refunds import refund
from tests.worker.charges import charge
from tests.worker.conftest import Site, wait_for


def test_reproduces_a_job_that_is_dead_before_any_worker_could_do_it(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.is_harmed
    assert found.seen["midway"] is State.DEAD
    assert found.seen["attempts"] == MAX_ATTEMPTS
    assert found.seen["refund"] is State.DEAD, "whatever the new workers have"
    assert found.seen["charged_by"] == ["old"]


def test_prevented_by_claiming_only_what_is_known(shop: Shop) -> None:
    found = play(shop)

    assert not found.is_harmed
    assert found.seen["midway"] is State.READY
    assert found.seen["attempts"] == 0
    assert found.seen["refund"] is State.DONE
    assert found.seen["charged_by"] == ["new", "old"]
    assert violations(shop, is_every_commit_charged=True) == {}


def test_prevented_that_unknown_jobs_stand_in_the_way(shop: Shop) -> None:
    """They are older, more urgent, and more than a claim takes; the known one is claimed."""
    for _ in range(50):
        shop.enqueue(task=NEW_TASK, priority=-1)
    known = shop.enqueue()

    assert [claimed.lease.job_id for claimed in shop.claim("old", 1, tasks=OLD_CODE)] == [known]


def test_prevented_when_its_turn_comes_by_a_retry_or_a_delay(shop: Shop) -> None:
    """Whatever brings a job back to the line, who promotes it need not know its task."""
    delayed = shop.enqueue(task=NEW_TASK, delay_s=3600.0)
    failed = shop.enqueue(task=NEW_TASK)
    (claimed,) = shop.claim("new", tasks=NEW_CODE)
    assert claimed.lease.job_id == failed
    shop.fail(claimed.lease)
    past = "0" if shop.is_sqlite else "'2000-01-01'"
    shop.sql(f"UPDATE jobq.scheduled SET run_at = {past}")
    for _ in range(TURNS):
        turn(shop, "old", OLD_CODE)

    assert [shop.state(job_id) for job_id in (delayed, failed)] == [State.READY] * 2
    assert [shop.job(job_id).attempts for job_id in (delayed, failed)] == [0, 1]


def test_prevented_for_jobs_under_limits(shop: Shop) -> None:
    """The old worker has the limit and not the task: it takes neither job nor slot."""
    one = Limit("refunds", concurrency=1)
    store: Store = shop.database.store
    shop.database.run(declare(store.portable, [one]))
    request = JobRequest(
        NEW_TASK, "{}", "default", 0, MAX_ATTEMPTS, None, 0.0, line_of("default", [one], {})
    )
    (job_id,) = shop.database.run(store.enqueue([request]))

    def claim(worker: str, tasks: tuple[str, ...]) -> list[int]:
        wanted = LimitedClaim(worker, None, tasks, 10, LEASE_S)
        found = shop.database.run(claim_limited(store.portable, wanted))
        return [claimed.lease.job_id for claimed in found.claimed]

    assert claim("old", OLD_CODE) == []
    assert shop.job(job_id).attempts == 0
    assert claim("new", NEW_CODE) == [job_id]


def test_prevented_while_an_old_worker_is_claiming(postgres_shop: Shop, parties: Parties) -> None:
    """It does not even lock what it leaves: a new worker gets it at the same moment."""
    shop = postgres_shop
    unknown, known = shop.enqueue(task=NEW_TASK), shop.enqueue()
    old, new = parties.open(), parties.open()

    def claim(worker: str, tasks: tuple[str, ...]) -> list[int]:
        step = shop.database.store.claim(
            worker=worker, queues=["default"], tasks=tasks, limit=10, lease_s=LEASE_S
        )
        party = old if worker == "old" else new
        return [claimed.lease.job_id for claimed in party.run(step)]

    assert claim("old", OLD_CODE) == [known]
    assert claim("new", NEW_CODE) == [unknown]


def test_prevented_on_worker_processes(site: Site) -> None:
    """Old code beside new code, as a deploy has it for a while."""
    with tomorrow.on(site.url):
        unknown, known = refund.enqueue(order_id=7), charge.enqueue()
        old = site.start_worker()
        site.wait_until_done(1)
        wait_for(
            lambda: f"jobs wait for task '{NEW_TASK}'" in site.log(), "the old one to say so", site
        )
        assert known.status().state is State.DONE
        assert unknown.status().state is State.READY
        assert unknown.status().attempts == 0

        site.start_worker(app="tests.failure_modes.refunds:app")
        site.wait_until_done(2)
        assert unknown.status().attempts == 1
        assert old.poll() is None, "and the old one is still there"

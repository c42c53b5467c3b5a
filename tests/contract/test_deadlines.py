"""A job whose deadline has passed does not begin any more; one that began in time goes on."""

from __future__ import annotations

import pytest

from jobq import AttemptEnd, State, chain
from jobq.failure_modes.shop import TASK, Shop
from jobq.failure_modes.transactions import Parties
from jobq.protocol.limits import Limit, line_of
from jobq.protocol.retention import MIN_AGE_S, Retention, RetentionPolicy
from jobq.protocol.values import JobRequest
from jobq.store.deadlines import TOO_LATE, bury_late, set_deadlines
from jobq.store.flow import enqueue_flow

PLAIN = JobRequest(TASK, "{}", "default", 0, 5, None, 0.0)


def give(shop: Shop, job_id: int, seconds: float) -> None:
    shop.database.run(set_deadlines(shop.database.store.portable, {job_id: seconds}))


def sweep(shop: Shop) -> list[int]:
    return shop.database.run(bury_late(shop.database.store.portable))


def assert_buried(shop: Shop, job_id: int, attempts: int = 0) -> None:
    assert sweep(shop) == [job_id]
    assert shop.state(job_id) is State.DEAD
    last = shop.attempts(job_id)[-1]
    assert (last.end, last.error, last.attempt) == (AttemptEnd.EXPIRED, TOO_LATE, attempts)
    assert sweep(shop) == []
    assert shop.sql("SELECT * FROM jobq.deadlines") == []


@pytest.mark.parametrize("place", ["ready", "scheduled", "throttled", "waiting"])
def test_a_job_that_waits_past_it_is_dead(shop: Shop, place: str) -> None:
    line = line_of("default", [Limit("one", concurrency=1)], {}) if place == "throttled" else None
    delay_s = 60.0 if place == "scheduled" else 0.0
    requests = [PLAIN, PLAIN._replace(line=line, delay_s=delay_s)]
    if place == "waiting":
        requests = chain(*requests)
    *_, job_id = shop.database.run(enqueue_flow(shop.database.store, requests))
    assert shop.state(job_id) == place
    give(shop, job_id, 0)
    assert_buried(shop, job_id)


def test_before_it_nothing_happens(shop: Shop) -> None:
    job_id = shop.enqueue()
    give(shop, job_id, 3600)
    assert sweep(shop) == []
    assert shop.claim_one("A").job_id == job_id
    shop.sql("DELETE FROM jobq.deadlines")


def test_what_runs_goes_on_and_is_not_repeated(shop: Shop) -> None:
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    give(shop, job_id, 0)
    assert sweep(shop) == []
    assert shop.heartbeat("A", a).lost == frozenset()
    shop.recover(a)
    shop.sql(f"UPDATE jobq.deadlines SET deadline_at = {'0' if shop.is_sqlite else 'now()'}")
    assert_buried(shop, job_id, attempts=1)
    assert shop.claim("B") == []


def test_what_ended_in_time_is_forgotten(shop: Shop) -> None:
    job_id = shop.enqueue()
    give(shop, job_id, 0)
    shop.complete(shop.claim_one("A"))
    assert sweep(shop) == []
    assert shop.state(job_id) is State.DONE
    assert shop.sql("SELECT * FROM jobq.deadlines") == []


def test_a_pruned_job_takes_its_deadline_along(shop: Shop) -> None:
    job_id = shop.enqueue()
    give(shop, job_id, 3600)
    shop.complete(shop.claim_one("A"))
    shop.grow_old(job_id, age_s=MIN_AGE_S + 60)
    assert shop.prune(RetentionPolicy({}, Retention(committed_s=MIN_AGE_S))).total == 1
    assert shop.sql("SELECT * FROM jobq.deadlines") == []


def test_a_claim_that_came_first_has_the_job(postgres_shop: Shop, parties: Parties) -> None:
    shop = postgres_shop
    job_id = shop.enqueue()
    give(shop, job_id, 0)
    claiming, burying = parties.open(), parties.open()
    store = shop.database.store
    claim = store.claim(worker="A", queues=["default"], tasks=[TASK], limit=1, lease_s=60)
    (claimed,) = claiming.run(claim)
    waiting = burying.start(bury_late(store.portable))
    parties.wait_until_blocked(burying.pid)
    claiming.commit()
    assert waiting.result() == []
    burying.commit()
    assert shop.complete(claimed.lease) == []
    shop.sql("DELETE FROM jobq.deadlines")


def test_a_burial_that_came_first_leaves_nothing_to_claim(
    postgres_shop: Shop, parties: Parties
) -> None:
    shop = postgres_shop
    job_id = shop.enqueue()
    give(shop, job_id, 0)
    burying = parties.open()
    assert burying.run(bury_late(shop.database.store.portable)) == [job_id]
    assert shop.claim("A") == []
    burying.commit()
    assert shop.state(job_id) is State.DEAD

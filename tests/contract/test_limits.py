"""Limits are never overshot, whoever claims at once, and nothing waits that has room."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobq import Limit, State
from jobq.failure_modes.shop import LEASE_S, TASK, Shop
from jobq.failure_modes.transactions import Parties
from jobq.protocol.limits import line_of
from jobq.protocol.values import JobRequest, Lease
from jobq.store.limits import BUSY_S, LimitedClaim, LimitedJobs, claim_limited, declare
from jobq.store.step import Step

TWO = Limit("two", concurrency=2)
EACH = Limit("each", concurrency=1, by=["customer"])
SLOWLY = Limit("slowly", rate=2, per_s=1000.0, burst=3)


@pytest.fixture(autouse=True)
def declared(request: pytest.FixtureRequest) -> None:
    for name in ("shop", "postgres_shop"):
        if name in request.fixturenames:
            shop: Shop = request.getfixturevalue(name)
            shop.database.run(declare(shop.database.store.portable, [TWO, EACH, SLOWLY]))


def enqueue(
    shop: Shop,
    *customers: int,
    limits: Sequence[Limit] = (TWO,),
    queue: str = "default",
    delay_s: float = 0.0,
) -> list[int]:
    requests = [
        JobRequest(
            TASK, "{}", queue, 0, 5, None, delay_s, line_of(queue, limits, {"customer": one})
        )
        for one in customers
    ]
    return shop.database.run(shop.database.store.enqueue(requests))


def claiming(
    shop: Shop,
    worker: str = "a",
    limit: int = 100,
    *,
    queues: Sequence[str] | None = None,
    after: str = "",
) -> Step[LimitedJobs]:
    claim = LimitedClaim(worker, queues, [TASK], limit, LEASE_S, after)
    return claim_limited(shop.database.store.portable, claim)


def claim(shop: Shop, worker: str = "a", limit: int = 100) -> list[Lease]:
    return [one.lease for one in shop.database.run(claiming(shop, worker, limit)).claimed]


def ids(leases: Sequence[Lease]) -> list[int]:
    return [lease.job_id for lease in leases]


def test_no_more_are_leased_than_may_run_at_once(shop: Shop) -> None:
    jobs = enqueue(shop, 1, 1, 1)

    first = claim(shop)
    assert ids(first) == jobs[:2]
    assert claim(shop, "b") == []
    assert shop.state(jobs[2]) is State.THROTTLED

    shop.complete(first[0])
    assert ids(claim(shop, "b")) == [jobs[2]]
    assert claim(shop) == []


def test_a_plain_claim_finds_no_limited_job(shop: Shop) -> None:
    enqueue(shop, 1)
    (plain,) = enqueue(shop, 1, limits=())

    assert [one.lease.job_id for one in shop.claim("a", 10)] == [plain]


def test_each_value_is_counted_apart(shop: Shop) -> None:
    jobs = enqueue(shop, 7, 7, 8, 8, 9, limits=[EACH])

    assert ids(claim(shop)) == [jobs[0], jobs[2], jobs[4]]


def test_two_limits_hold_together(shop: Shop) -> None:
    jobs = enqueue(shop, 7, 7, 8, 9, limits=[EACH, TWO])

    leases = claim(shop)
    assert ids(leases) == [jobs[0], jobs[2]]
    shop.complete(leases[1])
    assert ids(claim(shop)) == [jobs[3]]


def test_a_rate_lets_a_burst_through_and_then_waits_for_its_time(shop: Shop) -> None:
    jobs = enqueue(shop, *[1] * 5, limits=[SLOWLY])

    found = shop.database.run(claiming(shop))
    assert ids([one.lease for one in found.claimed]) == jobs[:3]

    waiting = shop.database.run(claiming(shop))
    assert waiting.claimed == []
    assert waiting.again_s == pytest.approx(500, rel=0.05)

    step = "600000" if shop.is_sqlite else "interval '600 s'"
    shop.sql(f"UPDATE jobq.limit_keys SET counted_at = counted_at - {step}")
    assert ids(claim(shop)) == [jobs[3]]


def test_a_failed_attempt_frees_its_slot_and_comes_back_under_the_limit(shop: Shop) -> None:
    jobs = enqueue(shop, 1, 1, 1)
    first, second = claim(shop)

    shop.fail(first)
    shop.promote()

    assert shop.state(jobs[0]) is State.THROTTLED
    assert len(claim(shop)) == 1
    assert claim(shop) == []
    assert second.token == 1


def test_an_expired_lease_counts_until_it_is_recovered(shop: Shop) -> None:
    jobs = enqueue(shop, 1, 1, 1)
    first, _ = claim(shop)

    shop.expire(first)
    assert claim(shop) == []

    shop.reconcile()
    assert ids(claim(shop)) == [jobs[2]]


def test_what_is_given_back_waits_in_its_line_again(shop: Shop) -> None:
    jobs = enqueue(shop, 1, 1)
    leases = claim(shop)

    shop.release(*leases)

    assert [shop.state(job) for job in jobs] == [State.THROTTLED] * 2
    assert [shop.job(job).attempts for job in jobs] == [0, 0]
    again = claim(shop)
    assert ids(again) == jobs
    assert [lease.token for lease in again] == [2, 2]


def test_a_delayed_job_comes_under_its_limit_when_it_is_due(shop: Shop) -> None:
    (job,) = enqueue(shop, 1, delay_s=60.0)
    assert shop.state(job) is State.SCHEDULED

    past = "0" if shop.is_sqlite else "'2000-01-01'"
    shop.sql(f"UPDATE jobq.scheduled SET run_at = {past}")
    shop.promote()

    assert shop.state(job) is State.THROTTLED
    assert ids(claim(shop)) == [job]


def test_a_throttled_job_can_be_cancelled(shop: Shop) -> None:
    (job,) = enqueue(shop, 1)

    assert shop.cancel(job)

    assert shop.state(job) is State.CANCELLED
    assert claim(shop) == []


def test_ids_come_in_the_order_of_the_requests(shop: Shop) -> None:
    limited = line_of("default", [TWO], {})
    requests = [
        JobRequest(TASK, f'{{"n":{n}}}', "default", 0, 5, None, 0.0, limited if n % 2 else None)
        for n in range(6)
    ]

    jobs = shop.database.run(shop.database.store.enqueue(requests))

    assert [shop.job(job).args for job in jobs] == [f'{{"n":{n}}}' for n in range(6)]
    assert [shop.state(job) for job in jobs] == [State.READY, State.THROTTLED] * 3


def test_other_queues_lines_are_left_alone(shop: Shop) -> None:
    (other,) = enqueue(shop, 1, queue="other")
    (ours,) = enqueue(shop, 1)

    found = shop.database.run(claiming(shop, queues=["default"]))

    assert ids([one.lease for one in found.claimed]) == [ours]
    assert shop.state(other) is State.THROTTLED


def test_every_line_has_its_turn(shop: Shop) -> None:
    jobs = enqueue(shop, *range(120), limits=[EACH])
    claimed: list[int] = []
    after = ""
    for _ in range(3):
        found = shop.database.run(claiming(shop, limit=1000, after=after))
        claimed += ids([one.lease for one in found.claimed])
        after = found.after

    assert sorted(claimed) == jobs
    assert after == ""


def test_limits_nobody_has_declared_let_nothing_through(shop: Shop) -> None:
    enqueue(shop, 1, limits=[Limit("undeclared", concurrency=9)])

    found = shop.database.run(claiming(shop))

    assert found.claimed == []
    assert found.again_s is not None


def test_a_limit_that_is_declared_anew_holds_at_once(shop: Shop) -> None:
    enqueue(shop, *[1] * 5)
    assert len(claim(shop)) == 2

    shop.database.run(declare(shop.database.store.portable, [Limit("two", concurrency=4)]))

    assert len(claim(shop)) == 2


def test_two_claims_at_once_do_not_overshoot(postgres_shop: Shop, parties: Parties) -> None:
    enqueue(postgres_shop, 1)
    postgres_shop.complete(*claim(postgres_shop))  # whoever is first under a key makes it
    jobs = enqueue(postgres_shop, *[1] * 4)
    one, other = parties.open(), parties.open()

    first = one.run(claiming(postgres_shop, "one", limit=1))
    meanwhile = other.run(claiming(postgres_shop, "other"))
    assert (len(first.claimed), meanwhile.claimed) == (1, [])
    assert meanwhile.again_s == BUSY_S

    one.commit()
    other.rollback()
    second = other.run(claiming(postgres_shop, "other"))
    assert ids([each.lease for each in second.claimed]) == [jobs[1]]
    other.commit()
    assert claim(postgres_shop) == []


def test_a_lease_that_is_being_ended_still_counts(postgres_shop: Shop, parties: Parties) -> None:
    enqueue(postgres_shop, 1, 1, 1)
    first, _ = claim(postgres_shop)
    ending = parties.open()
    ending.run(postgres_shop.database.store.complete([first]))

    assert claim(postgres_shop) == []
    ending.commit()
    assert len(claim(postgres_shop)) == 1


@pytest.mark.timeout(60)
def test_many_workers_at_once_never_overshoot(shop: Shop) -> None:
    """Sixteen claim and complete as fast as they can, and watch the count of leases."""
    jobs = enqueue(shop, *[n % 3 for n in range(60)], limits=[TWO, EACH])
    most = 0
    done: list[int] = []
    lock = threading.Lock()

    def work(worker: int) -> None:
        nonlocal most
        while True:
            found = shop.database.run(claiming(shop, str(worker), limit=5))
            if not found.claimed and found.again_s is None:
                return
            leases = [one.lease for one in found.claimed]
            ((held,),) = shop.sql("SELECT count(*) FROM jobq.leases")
            with lock:
                most = max(most, held)
                done.extend(ids(leases))
            shop.complete(*leases)

    workers = 4 if shop.is_sqlite else 16
    with ThreadPoolExecutor(workers) as pool:
        for each in [pool.submit(work, number) for number in range(workers)]:
            each.result()

    assert sorted(done) == jobs
    assert most <= 2


def test_slots_go_with_what_they_counted(shop: Shop) -> None:
    enqueue(shop, 1, 1)
    leases = claim(shop)
    shop.complete(*leases)
    enqueue(shop, 1)
    claim(shop)

    assert len(shop.sql("SELECT * FROM jobq.slots")) == 1

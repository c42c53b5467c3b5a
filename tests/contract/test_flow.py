"""A job that waits for others is due once, when they have ended, whoever sees the last of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import pytest
from sqlalchemy import select

from jobq import InvalidOption, JobNotFound, Outcome, State, When, chain, group
from jobq.failure_modes.shop import TASK, Shop
from jobq.failure_modes.transactions import Parties
from jobq.protocol.limits import Limit, line_of
from jobq.protocol.retention import MIN_AGE_S, Retention, RetentionPolicy
from jobq.protocol.values import JobRequest, Lease, UniqueRequest
from jobq.store.flow import enqueue_flow, release_after, sweep
from jobq.store.step import Step

T = TypeVar("T")
PLAIN = JobRequest(TASK, "{}", "default", 0, 5, None, 0.0)


def run(shop: Shop, step: Step[T]) -> T:
    return shop.database.run(step)


def enqueue(shop: Shop, requests: Sequence[JobRequest]) -> list[int]:
    return run(shop, enqueue_flow(shop.database.store, requests))


def sweep_all(shop: Shop) -> int:
    released, _ = run(shop, sweep(shop.database.store.portable, 0))
    shop.promote()
    return released


def states(shop: Shop, job_ids: Sequence[int]) -> list[State]:
    return [shop.state(job_id) for job_id in job_ids]


def finish(shop: Shop, *job_ids: int, outcome: Outcome = Outcome.COMMITTED) -> None:
    """End jobs that are due."""
    for claimed in shop.claim("A", 100):
        if claimed.lease.job_id not in job_ids:
            shop.release(claimed.lease)
        elif outcome is Outcome.COMMITTED:
            assert shop.complete(claimed.lease) == []
        elif outcome is Outcome.DEAD:
            shop.fail(claimed.lease, None)
    if outcome is Outcome.CANCELLED:
        for job_id in job_ids:
            assert shop.cancel(job_id)


def test_a_chain_runs_one_after_the_other(shop: Shop) -> None:
    jobs = enqueue(shop, chain(PLAIN, PLAIN, PLAIN))
    waiting = State.WAITING
    assert states(shop, jobs) == [State.READY, waiting, waiting]
    assert run(shop, shop.database.store.counts())[waiting] == 2
    assert sweep_all(shop) == 0
    for position, job_id in enumerate(jobs):
        assert [one.lease.job_id for one in shop.claim("B")] == [job_id]
        shop.release(lease_of(shop, job_id))
        finish(shop, job_id)
        assert sweep_all(shop) == (position < 2)
    assert states(shop, jobs) == [State.DONE] * 3


def lease_of(shop: Shop, job_id: int) -> Lease:
    leases = shop.database.store.portable.tables.leases
    ((token,),) = run(
        shop,
        shop.database.store.portable.run(select(leases.c.token).where(leases.c.job_id == job_id)),
    )
    return Lease(job_id, token)


ENDS = {
    "all done": ([Outcome.COMMITTED] * 2, [State.READY, State.CANCELLED, State.READY]),
    "one dead": (
        [Outcome.DEAD, Outcome.COMMITTED],
        [State.CANCELLED, State.READY, State.READY],
    ),
    "one cancelled": (
        [Outcome.COMMITTED, Outcome.CANCELLED],
        [State.CANCELLED, State.READY, State.READY],
    ),
}


@pytest.mark.parametrize(("outcomes", "expected"), ENDS.values(), ids=ENDS)
def test_a_group_is_followed_by_what_fits(
    shop: Shop, outcomes: list[Outcome], expected: list[State]
) -> None:
    *members, then, otherwise, finally_ = enqueue(
        shop, group([PLAIN] * 2, then=PLAIN, otherwise=PLAIN, finally_=PLAIN)
    )
    for member, outcome in zip(members, outcomes, strict=True):
        assert shop.state(finally_) is State.WAITING
        finish(shop, member, outcome=outcome)
        sweep_all(shop)
    assert states(shop, [then, otherwise, finally_]) == expected


def test_a_cancel_runs_down_the_chain(shop: Shop) -> None:
    jobs = enqueue(shop, chain(PLAIN, PLAIN, PLAIN, PLAIN))
    assert shop.cancel(jobs[1])
    assert states(shop, jobs[1:]) == [State.CANCELLED, State.WAITING, State.WAITING]
    assert sweep_all(shop) + sweep_all(shop) == 2
    assert states(shop, jobs) == [State.READY, *[State.CANCELLED] * 3]


def test_jobs_that_exist_are_waited_for(shop: Shop) -> None:
    first = shop.enqueue()
    (second,) = enqueue(shop, [PLAIN._replace(after=(first,))])
    assert shop.state(second) is State.WAITING
    finish(shop, first)
    (third,) = enqueue(shop, [PLAIN._replace(after=(first, second))])
    (fourth,) = enqueue(shop, [PLAIN._replace(after=(first,))])
    shop.promote()
    assert states(shop, [third, fourth]) == [State.WAITING, State.READY]
    sweep_all(shop)
    finish(shop, second)
    sweep_all(shop)
    assert shop.state(third) is State.READY


def test_what_cannot_be_waited_for_is_refused_and_nothing_is_enqueued(shop: Shop) -> None:
    unique = UniqueRequest("k", "ended", None, "return")
    for requests, error in (
        ([PLAIN._replace(after=(10**9,))], JobNotFound),
        ([PLAIN._replace(after=(-1,))], InvalidOption),
        ([PLAIN, PLAIN._replace(after=(0,))], InvalidOption),
        ([PLAIN, PLAIN._replace(after=(-1,), when="maybe")], InvalidOption),
        ([PLAIN, PLAIN._replace(after=(-1,), unique=unique)], InvalidOption),
    ):
        with pytest.raises(error):
            enqueue(shop, requests)
    assert shop.sql("SELECT * FROM jobq.jobs") == []


def test_a_delay_counts_from_the_release(shop: Shop) -> None:
    later = PLAIN._replace(delay_s=3600.0)
    first, second = enqueue(shop, chain(PLAIN, later))
    finish(shop, first)
    sweep_all(shop)
    status = shop.job(second)
    assert status.state is State.SCHEDULED
    assert status.due_at is not None
    assert 3500 < (status.due_at - status.created_at).total_seconds() < 3700


def test_a_released_job_under_limits_waits_in_its_line(shop: Shop) -> None:
    limited = PLAIN._replace(line=line_of("default", [Limit("one", concurrency=1)], {}))
    first, second = enqueue(shop, chain(PLAIN, limited))
    finish(shop, first)
    sweep_all(shop)
    assert shop.state(second) is State.THROTTLED


def test_very_many_jobs_and_edges(shop: Shop) -> None:
    requests = group([PLAIN] * 1500, then=PLAIN)
    then = enqueue(shop, requests)[-1]
    claimed = shop.claim("A", 2000)
    assert len(claimed) == 1500
    shop.complete(*(one.lease for one in claimed))
    after: int | None = 0
    for _ in range(4):
        _, after = run(shop, sweep(shop.database.store.portable, after or 0))
    shop.promote()
    assert shop.state(then) is State.READY
    assert run(shop, sweep(shop.database.store.portable, 0)) == (0, None)
    shop.cancel(then)


def test_a_job_that_others_wait_for_is_not_pruned(shop: Shop) -> None:
    first, second = enqueue(shop, chain(PLAIN, PLAIN))
    finish(shop, first)
    shop.grow_old(first, age_s=MIN_AGE_S + 60)
    policy = RetentionPolicy({}, Retention(committed_s=MIN_AGE_S))
    assert shop.prune(policy).total == 0
    sweep_all(shop)
    assert shop.prune(policy).total == 1
    assert shop.state(second) is State.READY


@pytest.mark.parametrize("when", list(When))
def test_two_who_see_the_last_ends_at_once_release_it_once(
    postgres_shop: Shop, parties: Parties, when: When
) -> None:
    """Each has ended one of two; neither sees the other's end."""
    shop = postgres_shop
    a_id, b_id, last = enqueue(
        shop, [PLAIN, PLAIN, PLAIN._replace(after=(-2, -1), when=when.value)]
    )
    leases = {one.lease.job_id: one.lease for one in shop.claim("A", 2)}
    store, portable = shop.database.store, shop.database.store.portable
    a, b = parties.open(), parties.open()
    a.run(store.complete([leases[a_id]]))
    b.run(store.complete([leases[b_id]]))
    released = [a.run(release_after(portable, [a_id])), b.run(release_after(portable, [b_id]))]
    a.commit()
    b.commit()
    assert released == [0, 0]

    c, d = parties.open(), parties.open()
    swept = [c.run(sweep(portable, 0))[0], d.run(sweep(portable, 0))[0]]
    c.commit()
    d.commit()
    assert swept == [1, 0]
    shop.promote()
    assert shop.state(last) is (State.CANCELLED if when is When.FAILED else State.READY)


def test_a_cancel_and_a_release_at_once_leave_one_fate(
    postgres_shop: Shop, parties: Parties
) -> None:
    shop = postgres_shop
    first, second = enqueue(shop, chain(PLAIN, PLAIN))
    finish(shop, first)
    store, portable = shop.database.store, shop.database.store.portable
    a, b = parties.open(), parties.open()
    assert a.run(sweep(portable, 0))[0] == 1
    cancelling = b.start(store.cancel(second))
    parties.wait_until_blocked(b.pid)
    a.commit()
    assert cancelling.result()
    b.commit()
    assert shop.promote() == 0
    assert shop.state(second) is State.CANCELLED

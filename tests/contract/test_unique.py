"""Of a unique job there is one, however many enqueue it at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jobq import JobExists, Retention, State, Unique
from jobq.failure_modes.shop import TASK, Shop
from jobq.failure_modes.transactions import Parties
from jobq.protocol.retention import RetentionPolicy
from jobq.protocol.values import JobRequest
from jobq.store.unique import enqueue_unique


def request(
    n: int = 1, *, args: str = "{}", delay_s: float = 0.0, line: str | None = None, **unique: Any
) -> JobRequest:
    asked = Unique(**unique).request(TASK, {"n": n})
    return JobRequest(TASK, args, "default", 0, 5, None, delay_s, line, asked)


def enqueue(shop: Shop, *requests: JobRequest) -> list[tuple[int, bool]]:
    return shop.database.run(enqueue_unique(shop.database.store, requests))


def one(shop: Shop, n: int = 1, **options: Any) -> tuple[int, bool]:
    (answer,) = enqueue(shop, request(n, **options))
    return answer


def jobs(shop: Shop) -> int:
    return int(shop.sql("SELECT count(*) FROM jobq.jobs")[0][0])


def test_the_second_is_told_of_the_first(shop: Shop) -> None:
    first, is_new = one(shop)
    assert is_new

    assert one(shop) == (first, False)
    assert one(shop, 2)[1]
    assert jobs(shop) == 2


def test_a_job_that_ended_keeps_nobody_away(shop: Shop) -> None:
    first, _ = one(shop)
    lease = shop.claim_one("a")
    assert one(shop) == (first, False)

    shop.complete(lease)

    second, is_new = one(shop)
    assert is_new
    assert second != first
    assert one(shop) == (second, False)


def test_a_job_that_was_cancelled_or_buried_keeps_nobody_away(shop: Shop) -> None:
    first, _ = one(shop)
    shop.cancel(first)
    second, is_new = one(shop)
    assert is_new

    shop.fail(shop.claim_one("a"), retry_delay_s=None)
    assert shop.state(second) is State.DEAD
    assert one(shop)[1]


def test_until_claimed_a_job_that_runs_keeps_nobody_away(shop: Shop) -> None:
    first, _ = one(shop, until="claimed")
    assert one(shop, until="claimed") == (first, False)

    lease = shop.claim_one("a")
    second, is_new = one(shop, until="claimed")
    assert is_new

    shop.fail(lease)
    assert one(shop, until="claimed") == (second, False)


def test_until_pruned_even_a_job_that_is_done_keeps_others_away(shop: Shop) -> None:
    first, _ = one(shop, until="pruned")
    shop.complete(shop.claim_one("a"))
    assert one(shop, until="pruned") == (first, False)

    shop.grow_old(first, age_s=7200.0)
    assert shop.prune(RetentionPolicy({TASK: Retention(committed_s=3600.0)})).total == 1
    assert shop.sql("SELECT * FROM jobq.unique_keys") == []
    assert one(shop, until="pruned")[1]


def test_after_its_time_a_job_keeps_nobody_away(shop: Shop) -> None:
    first, _ = one(shop, within_s=60.0)
    assert one(shop, within_s=60.0) == (first, False)

    shop.grow_old(first, age_s=61.0)

    assert one(shop, within_s=60.0)[1]


def test_one_that_is_in_the_way_can_be_an_error(shop: Shop) -> None:
    first, _ = one(shop)

    with pytest.raises(JobExists, match=f"job {first} is there already") as raised:
        enqueue(shop, request(7), request(on_conflict="raise"))

    assert raised.value.job_id == first
    assert jobs(shop) == 1


def test_a_waiting_job_can_be_replaced(shop: Shop) -> None:
    first, _ = one(shop, args='{"v":1}', delay_s=60.0)

    second, is_new = one(shop, args='{"v":2}', on_conflict="replace")

    assert is_new
    assert shop.state(first) is State.CANCELLED
    assert shop.job(second).args == '{"v":2}'
    assert one(shop) == (second, False)


def test_a_running_job_is_not_replaced_nor_moved(shop: Shop) -> None:
    first, _ = one(shop)
    shop.claim_one("a")

    assert one(shop, on_conflict="replace") == (first, False)
    assert one(shop, on_conflict="move", delay_s=60.0) == (first, False)
    assert shop.state(first) is State.LEASED


@pytest.mark.parametrize("line", [None, '["default","mail"]'])
def test_a_waiting_job_can_be_moved(shop: Shop, line: str | None) -> None:
    first, _ = one(shop, line=line)
    assert shop.state(first) in (State.READY, State.THROTTLED)

    assert one(shop, on_conflict="move", delay_s=3600.0) == (first, False)
    assert shop.state(first) is State.SCHEDULED
    later = shop.job(first).due_at

    assert one(shop, on_conflict="move", delay_s=60.0) == (first, False)
    sooner = shop.job(first).due_at
    assert sooner is not None
    assert later is not None
    assert sooner < later
    assert jobs(shop) == 1


def test_of_several_in_one_call_the_first_counts(shop: Shop) -> None:
    answers = enqueue(
        shop,
        request(1, args='{"v":1}'),
        request(2),
        request(1, args='{"v":2}'),
        JobRequest(TASK, "{}", "default", 0, 5, None, 0.0),
    )

    ids = [job_id for job_id, _ in answers]
    assert [is_new for _, is_new in answers] == [True, True, False, True]
    assert ids[2] == ids[0]
    assert shop.job(ids[0]).args == '{"v":1}'
    assert jobs(shop) == 3


def test_many_are_enqueued_at_once(shop: Shop) -> None:
    answers = enqueue(shop, *[request(n % 1_500) for n in range(3_000)])

    assert [is_new for _, is_new in answers] == [True] * 1_500 + [False] * 1_500
    assert [job_id for job_id, _ in answers[:1_500]] == [job_id for job_id, _ in answers[1_500:]]


def test_thirty_two_at_once_make_one_job(shop: Shop) -> None:
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: one(shop), range(32)))

    assert len({job_id for job_id, _ in answers}) == 1
    assert sum(is_new for _, is_new in answers) == 1
    assert jobs(shop) == 1


def test_keys_in_opposite_orders_do_not_deadlock(shop: Shop) -> None:
    forwards = [request(n) for n in range(20)]

    def enqueue_all(number: int) -> None:
        enqueue(shop, *(forwards if number % 2 else reversed(forwards)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enqueue_all, range(16)))

    assert jobs(shop) == 20


def test_one_that_waits_gets_the_key_of_one_that_rolls_back(
    postgres_shop: Shop, parties: Parties
) -> None:
    first, second = parties.open(), parties.open()
    store = postgres_shop.database.store
    first.run(enqueue_unique(store, [request()]))
    waiting = second.start(enqueue_unique(store, [request()]))
    parties.wait_until_blocked(second.pid)

    first.rollback()

    ((job_id, is_new),) = waiting.result(30)
    second.commit()
    assert is_new
    assert jobs(postgres_shop) == 1
    assert one(postgres_shop) == (job_id, False)


def test_one_that_waits_sees_what_the_first_committed(
    postgres_shop: Shop, parties: Parties
) -> None:
    first, second = parties.open(), parties.open()
    store = postgres_shop.database.store
    ((made, _),) = first.run(enqueue_unique(store, [request()]))
    waiting = second.start(enqueue_unique(store, [request()]))
    parties.wait_until_blocked(second.pid)

    first.commit()

    assert waiting.result(30) == [(made, False)]
    second.commit()


def test_a_claim_and_a_replacement_at_once_leave_one_of_them(
    postgres_shop: Shop, parties: Parties
) -> None:
    first, _ = one(postgres_shop)
    claiming, replacing = parties.open(), parties.open()
    store = postgres_shop.database.store
    claiming.run(store.claim(worker="a", queues=["default"], tasks=[TASK], limit=1, lease_s=60.0))
    waiting = replacing.start(enqueue_unique(store, [request(on_conflict="replace")]))
    parties.wait_until_blocked(replacing.pid)

    claiming.commit()

    assert waiting.result(30) == [(first, False)]
    replacing.commit()
    assert postgres_shop.state(first) is State.LEASED


def test_a_commit_that_is_under_way_still_keeps_others_away(
    postgres_shop: Shop, parties: Parties
) -> None:
    first, _ = one(postgres_shop)
    lease = postgres_shop.claim_one("a")
    committing = parties.open()
    committing.run(postgres_shop.database.store.complete([lease]))

    assert one(postgres_shop) == (first, False)
    committing.commit()
    assert one(postgres_shop)[1]

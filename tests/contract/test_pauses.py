"""No claim that begins after a pause takes a job of its queue, until the pause is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TypeVar

from jobq import Limit, QueueStatus
from jobq.failure_modes.shop import LEASE_S, TASK, Shop
from jobq.protocol.limits import line_of
from jobq.protocol.values import JobRequest
from jobq.store import pauses as steps
from jobq.store.limits import LimitedClaim, claim_limited, declare
from jobq.store.step import Step

T = TypeVar("T")
ONE_AT_ONCE = Limit("one", concurrency=1)


def run(shop: Shop, step: Step[T]) -> T:
    return shop.database.run(step)


def pause(shop: Shop, queue: str, until: datetime | None = None) -> None:
    run(shop, steps.pause(shop.database.store.portable, queue, until))


def resume(shop: Shop, queue: str) -> bool:
    return run(shop, steps.resume(shop.database.store.portable, queue))


def listed(shop: Shop) -> list[QueueStatus]:
    return run(shop, steps.all_queues(shop.database.store.portable))


def claim(shop: Shop, *queues: str) -> list[str]:
    return sorted(job.queue for job in shop.claim("A", 10, queues=queues))


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def test_a_paused_queue_gives_nothing_and_the_others_do(shop: Shop) -> None:
    for queue in ("mail", "billing"):
        shop.enqueue(queue=queue)
    pause(shop, "mail")

    assert claim(shop, "mail", "billing") == ["billing"]
    assert claim(shop, "mail") == []
    assert resume(shop, "mail")
    assert claim(shop, "mail") == ["mail"]
    assert not resume(shop, "mail")


def test_what_was_claimed_before_the_pause_goes_on(shop: Shop) -> None:
    shop.enqueue()
    lease = shop.claim_one("A")
    pause(shop, "default")
    assert shop.heartbeat("A", lease).lost == frozenset()
    assert shop.complete(lease) == []


def test_a_retry_waits_for_the_queue_to_be_resumed(shop: Shop) -> None:
    shop.enqueue()
    lease = shop.claim_one("A")
    pause(shop, "default")
    shop.recover(lease)
    assert shop.claim("B") == []
    resume(shop, "default")
    assert [job.lease.job_id for job in shop.claim("B")] == [lease.job_id]


def test_a_pause_ends_at_its_time(shop: Shop) -> None:
    shop.enqueue()
    pause(shop, "default", soon())
    assert claim(shop, "default") == []

    past = "0" if shop.is_sqlite else "'2000-01-01'"
    shop.sql(f"UPDATE jobq.pauses SET resumes_at = {past}")
    assert [(queue.name, queue.paused_at) for queue in listed(shop)] == [("default", None)]
    assert claim(shop, "default") == ["default"]
    assert not resume(shop, "default")


def test_a_second_pause_says_until_when(shop: Shop) -> None:
    pause(shop, "default")
    (first,) = listed(shop)
    until = soon().replace(microsecond=0)
    pause(shop, "default", until)
    (second,) = listed(shop)
    assert first.resumes_at is None
    assert (second.paused_at, second.resumes_at) == (first.paused_at, until)


def test_jobs_under_limits_are_paused_too(shop: Shop) -> None:
    portable = shop.database.store.portable
    run(shop, declare(portable, [ONE_AT_ONCE]))
    for queue in ("mail", "billing"):
        line = line_of(queue, [ONE_AT_ONCE], {})
        request = JobRequest(TASK, "{}", queue, 0, 5, None, 0.0, line)
        run(shop, shop.database.store.enqueue([request]))
    pause(shop, "billing")

    def claimed() -> list[str]:
        asked = LimitedClaim("A", None, [TASK], 10, LEASE_S)
        return [job.queue for job in run(shop, claim_limited(portable, asked)).claimed]

    assert claimed() == ["mail"]
    assert [(queue.name, queue.throttled) for queue in listed(shop)] == [("billing", 1)]
    shop.sql("DELETE FROM jobq.slots")
    resume(shop, "billing")
    assert claimed() == ["billing"]


def test_the_list_counts_what_is_due(shop: Shop) -> None:
    for _ in range(3):
        shop.enqueue(queue="mail")
    shop.enqueue(queue="later", delay_s=3600)
    pause(shop, "billing")
    billing, mail = listed(shop)
    assert (billing.name, billing.ready, billing.oldest_due_at) == ("billing", 0, None)
    assert billing.paused_at is not None
    assert (mail.name, mail.ready, mail.throttled, mail.paused_at) == ("mail", 3, 0, None)
    assert mail.oldest_due_at is not None

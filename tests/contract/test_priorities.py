"""The priorities in a queue, and a claim that begins further down."""

from __future__ import annotations

from jobq.failure_modes.shop import LEASE_S, TASK, Shop
from jobq.protocol.values import HEAD


def test_the_priorities_of_ready_jobs_are_listed_queue_by_queue(shop: Shop) -> None:
    for queue, priority in (("a", 5), ("a", 0), ("a", 5), ("b", -7), ("c", 1)):
        shop.enqueue(queue=queue, priority=priority)
    store = shop.database.store
    listed = shop.database.run(store.ready_priorities(["a", "b", "none"]))
    assert sorted(listed) == [("a", 0), ("a", 5), ("b", -7)]


def test_a_claim_may_begin_at_a_priority(shop: Shop) -> None:
    for priority in (0, 3, 3, 7):
        shop.enqueue(priority=priority)
    claimed = shop.database.run(
        shop.database.store.claim(
            worker="A",
            queues=["default"],
            tasks=[TASK],
            limit=2,
            lease_s=LEASE_S,
            since={"default": HEAD._replace(priority=3)},
        )
    )
    assert [job.priority for job in claimed] == [3, 3]
    assert [job.priority for job in shop.claim("B", 5)] == [0, 7]

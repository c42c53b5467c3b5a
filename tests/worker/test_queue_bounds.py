"""A worker has no more jobs of a queue in hand than it may."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from jobq import Breaker, InvalidOption, JobQueue, Limit, Retry, State, WorkerOptions
from jobq.cli.worker import queues_in
from tests.worker.conftest import BOUND_S, Site, wait_for


class Watch:
    """How many of each queue run at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    def begin(self, queue: str) -> None:
        with self._lock:
            self.running[queue] += 1
            self.most[queue] = max(self.most[queue], self.running[queue])

    def end(self, queue: str) -> None:
        with self._lock:
            self.running[queue] -= 1


@pytest.mark.parametrize("is_limited", [False, True])
def test_each_queue_keeps_to_its_bound(site: Site, is_limited: bool) -> None:
    app = JobQueue(site.url)
    watch = Watch()
    may_end = threading.Event()
    limits = [Limit("many", concurrency=50)] if is_limited else []

    @app.task(name="work", limits=limits)
    def work(queue: str) -> None:
        watch.begin(queue)
        assert may_end.wait(BOUND_S)
        watch.end(queue)

    bounds = {"billing": 2, "mail": 5}
    app.enqueue_many(
        work.using(queue=queue).request(queue) for queue in (*bounds, "other") for _ in range(12)
    )
    with app.worker(poll_s=0.05, queues=bounds, concurrency=10):
        wait_for(lambda: watch.running == bounds, "both queues to be at their bounds", site)
        assert site.counts()[State.LEASED] == 7, "nothing is held ahead"
        may_end.set()
        site.wait_until_done(24)
    app.close()
    assert watch.most == bounds


def test_a_paused_tasks_trial_keeps_to_the_bound(site: Site) -> None:
    app = JobQueue(site.url)
    works = threading.Event()

    @app.task(
        name="fragile",
        queue="one",
        max_attempts=50,
        retry=Retry(base_s=0.001, cap_s=0.002, budget=None),
        breaker=Breaker(failures=2, pause_s=0.2),
    )
    def fragile() -> None:
        if not works.is_set():
            raise ConnectionError

    app.enqueue_many(fragile.request() for _ in range(6))
    with app.worker(poll_s=0.05, queues={"one": 1}, concurrency=4):
        wait_for(lambda: site.rows("attempts"), "it to fail", site)
        works.set()
        site.wait_until_done(6)
    app.close()


def test_a_bound_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidOption, match="use 1 or more"):
        WorkerOptions(queues={"mail": 0})
    with pytest.raises(InvalidOption, match="queues is empty"):
        WorkerOptions(queues={})


def test_the_command_reads_bounds() -> None:
    assert queues_in("mail, billing", 10) == ["mail", "billing"]
    assert queues_in("mail=3,billing", 10) == {"mail": 3, "billing": 10}
    for wrong in ("mail=", "mail=x", "mail=-1"):
        with pytest.raises(InvalidOption, match="write NAME=N"):
            queues_in(wrong, 10)

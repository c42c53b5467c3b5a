"""Workers keep to the limits of their tasks, together."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import Connection, insert

from jobq import InvalidOption, InvalidTask, JobQueue, Limit, State
from tests.worker.charges import ledger
from tests.worker.conftest import Site, wait_for


class Watch:
    """How many handlers run at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1


def test_two_workers_keep_to_one_limit(site: Site) -> None:
    app = JobQueue(site.url)
    watch = Watch()

    @app.task(name="charge", limits=[Limit("charges", concurrency=3)])
    def charge(db: Connection, n: int) -> None:
        with watch:
            db.execute(insert(ledger).values(job_id=n, charged_by="a limited handler"))

    app.enqueue_many(charge.request(n) for n in range(60))
    with app.worker(poll_s=0.05, concurrency=8), app.worker(poll_s=0.05, concurrency=8):
        wait_for(lambda: site.counts()[State.DONE] == 60, "all jobs to be done", site)
    app.close()

    assert watch.most <= 3
    assert site.charged() == list(range(60))


def test_other_jobs_are_not_held_up(site: Site) -> None:
    app = JobQueue(site.url)
    may_end = threading.Event()

    @app.task(name="slow", limits=[Limit("slow", concurrency=1, by=["customer"])])
    def slow(customer: int) -> None:
        may_end.wait(30)

    @app.task(name="quick")
    def quick() -> None: ...

    slow_jobs = [slow.enqueue(customer=7) for _ in range(5)]
    other_customer = slow.enqueue(customer=8)
    with app.worker(poll_s=0.05, concurrency=4):
        quick_jobs = [quick.enqueue() for _ in range(20)]
        wait_for(
            lambda: all(job.status().state is State.DONE for job in quick_jobs),
            "jobs without a limit to pass by",
            site,
        )
        wait_for(
            lambda: other_customer.status().state is State.LEASED,
            "the other customer's job to start",
            site,
        )
        states = [job.status().state for job in slow_jobs]
        may_end.set()
        wait_for(lambda: site.counts()[State.DONE] == 26, "the rest to be done", site)
    app.close()

    assert states == [State.LEASED, *[State.THROTTLED] * 4]


def test_a_worker_comes_back_for_what_its_rate_held_up(site: Site) -> None:
    app = JobQueue(site.url)
    began: list[float] = []

    @app.task(name="rated", limits=[Limit("rated", rate=1, per_s=0.3)])
    async def rated() -> None:
        began.append(time.monotonic())

    app.enqueue_many(rated.request() for _ in range(4))
    with app.worker(poll_s=20):
        wait_for(lambda: site.counts()[State.DONE] == 4, "all of them to be done", site)
    app.close()

    assert began[-1] - began[0] > 0.8


def test_a_limit_by_an_argument_that_is_not_there_is_refused(site: Site) -> None:
    with pytest.raises(InvalidTask, match="names 'customer'"):

        @site.app.task(name="wrong", limits=[Limit("wrong", rate=1, by=["customer"])])
        def wrong(client: int) -> None: ...


def test_two_limits_of_one_name_must_be_the_same(site: Site) -> None:
    app = JobQueue(site.url)

    @app.task(name="one", limits=[Limit("mail", rate=1)])
    def one() -> None: ...

    @app.task(name="same", limits=[Limit("mail", rate=1)])
    def same() -> None: ...

    with pytest.raises(InvalidOption, match="two limits are named 'mail'"):

        @app.task(name="two", limits=[Limit("mail", rate=2)])
        def two() -> None: ...


def test_a_default_counts_like_the_value_itself(site: Site) -> None:
    app = JobQueue(site.url)

    @app.task(name="by_default", limits=[Limit("by_default", concurrency=1, by=["customer"])])
    def by_default(customer: int = 7) -> None: ...

    assert by_default.request().line == by_default.request(customer=7).line
    assert by_default.request().line != by_default.request(customer=8).line

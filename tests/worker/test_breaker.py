"""A task that keeps failing is left alone, its jobs too, and tried again with one of them."""

from __future__ import annotations

import asyncio
import threading

import pytest

from jobq import Breaker, Bury, JobQueue, Limit, Retry, Snooze, State
from jobq.protocol.breaker import EMPTY_PROBE_S
from tests.worker.conftest import BOUND_S, Site, wait_for


@pytest.mark.parametrize("is_limited", [False, True])
def test_a_failing_task_pauses_and_goes_on(
    site: Site, caplog: pytest.LogCaptureFixture, is_limited: bool
) -> None:
    app = JobQueue(site.url)
    works = threading.Event()
    begun: list[int] = []

    @app.task(
        name="fragile",
        max_attempts=50,
        retry=Retry(base_s=0.001, cap_s=0.002, budget=None),
        breaker=Breaker(failures=5, pause_s=0.3),
        limits=[Limit("fragile", concurrency=50)] if is_limited else [],
    )
    def fragile(n: int) -> None:
        begun.append(n)
        if not works.is_set():
            raise ConnectionError

    @app.task(name="sound")
    def sound() -> None: ...

    jobs = app.enqueue_many(fragile.request(n) for n in range(30))
    with app.worker(poll_s=0.05, concurrency=1, prefetch=20):
        wait_for(lambda: "pauses in this worker" in caplog.text, "the breaker to open", site)
        for other in [sound.enqueue() for _ in range(5)]:
            other.wait(BOUND_S)
        tries = len(begun)
        wait_for(lambda: len(begun) > tries, "a trial", site)
        works.set()
        site.wait_until_done(35)
    app.close()
    assert "works again" in caplog.text
    assert tries <= 30, "what waited here was given back, and not begun"
    assert {job.status().state for job in jobs} == {State.DONE}


def test_a_trial_that_snoozes_does_not_leave_the_task_paused(site: Site) -> None:
    app = JobQueue(site.url)
    acts: list[BaseException] = [ConnectionError(), Snooze(0)]

    @app.task(
        name="fragile",
        retry=Retry(base_s=0, budget=None),
        breaker=Breaker(failures=1, pause_s=0.1),
    )
    def fragile() -> None:
        if acts:
            raise acts.pop(0)

    job = fragile.enqueue()
    with app.worker(poll_s=0.05):
        assert job.wait(BOUND_S).state is State.DONE
    app.close()


def test_buried_jobs_are_at_fault_themselves(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    app = JobQueue(site.url)

    @app.task(name="picky", breaker=Breaker(failures=3, pause_s=3600))
    def picky() -> None:
        raise Bury("malformed")

    jobs = app.enqueue_many([picky.request()] * 10)
    with app.worker(poll_s=0.05, concurrency=1, prefetch=0):
        assert {job.wait(BOUND_S).state for job in jobs} == {State.DEAD}
    app.close()
    assert "pauses" not in caplog.text


def test_a_trial_that_is_due_leaves_full_hands_to_their_work(site: Site) -> None:
    """A worker that has no room for the trial once never yielded to its event loop again."""
    app = JobQueue(site.url)

    @app.task(name="fragile", retry=Retry(base_s=3600), breaker=Breaker(failures=1, pause_s=0.1))
    async def fragile() -> None:
        raise ConnectionError

    @app.task(name="long")
    async def long() -> None:
        await asyncio.sleep(1.5 * EMPTY_PROBE_S)

    with app.worker(poll_s=0.05, concurrency=1, prefetch=0):
        failed = fragile.enqueue()
        wait_for(lambda: failed.status().state is State.SCHEDULED, "the failure", site)
        assert long.enqueue().wait(BOUND_S).state is State.DONE
    app.close()

"""A task that keeps failing is left alone, its jobs too, and tried again with one of them."""

from __future__ import annotations

import threading

import pytest

from jobq import Breaker, JobQueue, Limit, Retry, State
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

"""Workers leave a paused queue alone, and wake when it is resumed."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from jobq import InvalidOption, JobQueue, State
from tests.worker.conftest import BOUND_S, Site, wait_for


def test_a_resumed_queue_wakes_a_worker_that_sleeps(site: Site) -> None:
    app = JobQueue(site.url)

    @app.task(name="mail", queue="mail")
    def mail() -> None: ...

    @app.task(name="other")
    def other() -> None: ...

    app.queues.pause("mail")
    paused = mail.enqueue()
    with app.worker(poll_s=10 * BOUND_S):
        passed = other.enqueue()
        wait_for(lambda: passed.status().state is State.DONE, "the other queue's job", site)
        assert paused.status().state is State.READY
        (queue,) = app.queues.list()
        assert (queue.name, queue.ready) == ("mail", 1)

        began_s = time.monotonic()
        assert app.queues.resume("mail")
        wait_for(lambda: paused.status().state is State.DONE, "the paused job", site)
        assert time.monotonic() - began_s < BOUND_S, "it slept on until its next look"
    app.close()


def test_a_pause_without_a_time_zone_is_refused(site: Site) -> None:
    with pytest.raises(InvalidOption, match="no time zone"):
        site.app.queues.pause("mail", until=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(InvalidOption, match="a name is"):
        site.app.queues.pause("")

"""A worker's own event loop: uvloop where it is installed, asyncio's where it is not."""

from __future__ import annotations

import asyncio

import pytest

from jobq import JobQueue
from jobq.worker import event_loop
from tests.worker.conftest import Site


async def module_of_the_loop() -> str:
    return type(asyncio.get_running_loop()).__module__


def test_uvloop_is_used_where_it_is_installed() -> None:
    assert event_loop.run(module_of_the_loop()).startswith("uvloop")


def test_a_worker_runs_on_asyncios_own_loop(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "find_spec", lambda name: None)
    seen: list[str] = []
    app = JobQueue(site.url)

    @app.task(name="look")
    async def look() -> None:
        seen.append(await module_of_the_loop())

    app.enqueue_many([look.request()] * 3)
    with app.worker(poll_s=0.05):
        site.wait_until_done(3)
    app.close()
    assert all(module.startswith("asyncio") for module in seen)
    assert len(seen) == 3

"""A worker that holds all it may has nothing to look for, and lets its handlers go on."""

from __future__ import annotations

import asyncio

import pytest

from jobq import JobQueue
from jobq.protocol import cursor
from tests.worker.conftest import Site


def test_async_handlers_go_on_when_a_look_from_the_head_is_due(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = JobQueue(site.url)

    @app.task(name="take")
    async def take(s: float) -> None:
        await asyncio.sleep(s)

    # The first claim looks from the head; the next, as soon as the first job has ended, does not,
    # and the worker's hands are full when it would be time to.
    monkeypatch.setattr(cursor, "SHARE", 1e-9)
    monkeypatch.setattr(cursor, "HIDDEN_S", 0.5)
    app.enqueue_many([take.request(s=s) for s in (0.0, 1.0, 0.0, 0.0)])
    with app.worker(concurrency=1, prefetch=1, reconcile_s=3_600, prune_s=None):
        site.wait_until_done(4)
    app.close()


def test_async_handlers_go_on_when_nothing_is_leased_ahead(site: Site) -> None:
    """With more to be had and no room for it, no turn is due: it would not yield to the loop."""
    app = JobQueue(site.url)

    @app.task(name="take")
    async def take() -> None:
        await asyncio.sleep(0.01)

    app.enqueue_many([take.request()] * 3)
    with app.worker(concurrency=1, prefetch=0, reconcile_s=3_600, prune_s=None):
        site.wait_until_done(3)
    app.close()

"""Workers see to the schedules of their app, together."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from jobq import InvalidOption, JobQueue, State
from tests.worker.conftest import Site, wait_for


def test_workers_make_the_jobs_of_a_tick_once(site: Site) -> None:
    app = JobQueue(site.url)

    @app.task(name="report")
    async def report(kind: str) -> None: ...

    # Half an hour from any tick of the real clock.
    cron = f"{(datetime.now(UTC).minute + 30) % 60} * * * *"
    app.schedule("hourly", cron, report.request(kind="short"), missed="all")
    with app.worker(poll_s=0.05), app.worker(poll_s=0.05):
        wait_for(lambda: len(app.schedules.list()) == 1, "the schedule to be written", site)
        app.schedules.run_now("hourly")
        wait_for(lambda: site.counts()[State.DONE] == 1, "the first job", site)
        is_sqlite = site.url.startswith("sqlite")
        table = "jobq_schedules" if is_sqlite else "jobq.schedules"
        by = "7200000" if is_sqlite else "interval '2 hours'"
        site.sql(f"UPDATE {table} SET next_tick_at = next_tick_at - {by}")
        wait_for(lambda: site.counts()[State.DONE] >= 3, "the jobs of two ticks", site)
    app.close()

    assert site.counts()[State.DONE] == 3


def test_a_schedule_is_declared_once(site: Site) -> None:
    app = JobQueue(site.url)

    @app.task(name="report")
    async def report() -> None: ...

    app.schedule("nightly", "30 2 * * *", report.request(), timezone="Europe/Berlin")
    with pytest.raises(InvalidOption, match="two schedules are named 'nightly'"):
        app.schedule("nightly", "30 3 * * *", report.request())
    with pytest.raises(InvalidOption, match="missed 'some'"):
        app.schedule("weekly", "30 3 * * 0", report.request(), missed="some")  # type: ignore[arg-type]

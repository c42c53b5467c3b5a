"""Two queues in one database see nothing of each other."""

from __future__ import annotations

import threading

import psycopg
from sqlalchemy import Connection, insert

from jobq import JobQueue, Limit, State, Unique
from jobq.database.url import conninfo, parse_url
from jobq.schema import upgrade
from tests.worker.charges import ledger
from tests.worker.conftest import BOUND_S, Site, wait_for

SCHEMAS = ("north", "order")
"""The second is a reserved word."""


def tenant(url: str, schema: str) -> JobQueue:
    upgrade(url, schema=schema)
    app = JobQueue(url, schema=schema)

    @app.task(name="charge", unique=Unique(key="one"))
    def charge(db: Connection, n: int) -> str:
        db.execute(insert(ledger).values(job_id=n, charged_by=schema))
        return schema

    @app.task(name="hold", limits=[Limit("one", concurrency=1)])
    def hold() -> None:
        held[schema].set()
        assert may_end.wait(BOUND_S)

    app.schedule("nightly", "0 3 * * *", charge.request(0))
    return app


held = {schema: threading.Event() for schema in SCHEMAS}
may_end = threading.Event()


def test_tenants_are_apart(postgres_site: Site) -> None:
    apps = {schema: tenant(postgres_site.url, schema) for schema in SCHEMAS}
    handles = {
        schema: app.tasks["charge"].enqueue(n) for n, (schema, app) in enumerate(apps.items())
    }
    assert {handle.id for handle in handles.values()} == {1}
    assert all(handle.is_new for handle in handles.values())
    north, order = (apps[schema] for schema in SCHEMAS)
    with north.worker(poll_s=0.05):
        assert handles["north"].result(BOUND_S) == "north"
        assert handles["order"].status().state is State.READY
        with order.worker(poll_s=10 * BOUND_S):
            assert handles["order"].result(BOUND_S) == "order"
            # Its worker sleeps, and is notified by its own schema; one limit of each counts alone.
            holding = [app.tasks["hold"].enqueue() for app in apps.values()]
            for event in held.values():
                assert event.wait(BOUND_S)
            may_end.set()
            for handle in holding:
                handle.wait(BOUND_S)
        wait_for(lambda: len(north.schedules.list()) == 1, "the schedule", postgres_site)
    for app in apps.values():
        assert [each.schedule.name for each in app.schedules.list()] == ["nightly"]
        app.schedules.delete("nightly")
        assert app.schedules.list() == []
        app.close()
    assert postgres_site.charged() == [0, 1]
    with psycopg.connect(conninfo(parse_url(postgres_site.url))) as connection:
        rows = connection.execute("SELECT count(*) FROM jobq.jobs").fetchone()
    assert rows == (0,), "the default schema is nobody's here"

"""An idle worker is told of new jobs. It would look by itself only after two minutes here."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from jobq import JobQueue, State
from jobq.database.url import conninfo
from jobq.store.postgres import channel_of
from tests.worker.conftest import Site, wait_for

POLL_S = 120.0
"""More than `wait_for` waits."""


@pytest.fixture
def app(site: Site) -> Iterator[JobQueue]:
    yield from opened(site)


@pytest.fixture
def postgres_app(postgres_site: Site) -> Iterator[JobQueue]:
    yield from opened(postgres_site)


def opened(site: Site) -> Iterator[JobQueue]:
    app = JobQueue(site.url)
    ran = threading.Semaphore(0)

    @app.task(name="run")
    def run() -> None:
        ran.release()

    @app.task(name="elsewhere", queue="elsewhere")
    def elsewhere() -> None:
        ran.release()

    yield app
    app.close()


def listeners(site: Site) -> list[str]:
    return [row["worker"] for row in site.rows("idle_workers")]


def wait_until_idle(site: Site) -> None:
    if site.engine.dialect.name == "postgresql":
        wait_for(lambda: listeners(site), "the worker to listen")


def test_a_job_is_picked_up_by_an_idle_worker(site: Site, app: JobQueue) -> None:
    with app.worker(poll_s=POLL_S):
        for done in (1, 2, 3):
            wait_until_idle(site)
            app.tasks["run"].enqueue()
            site.wait_until_done(done)


def test_a_job_of_the_callers_transaction_is_picked_up_when_that_commits(
    site: Site, app: JobQueue
) -> None:
    with app.worker(poll_s=POLL_S):
        wait_until_idle(site)
        engine = create_engine(site.url)
        with Session(engine) as session, session.begin():
            app.tasks["run"].enqueue_in(session)
        engine.dispose()
        wait_for(lambda: site.counts()[State.DONE] == 1, "the job to be done", site)


def test_a_worker_of_some_queues_serves_them_and_no_others(site: Site, app: JobQueue) -> None:
    with app.worker(poll_s=POLL_S, queues=["elsewhere"]):
        wait_until_idle(site)
        app.enqueue_many([app.tasks["run"].request(), app.tasks["elsewhere"].request()])
        site.wait_until_done(1)
        wait_until_idle(site)
    assert site.counts()[State.READY] == 1


def test_jobs_that_were_there_before_it_listened_are_found(site: Site, app: JobQueue) -> None:
    app.enqueue_many([app.tasks["run"].request()] * 50)
    with app.worker(poll_s=POLL_S, concurrency=1):
        site.wait_until_done(50)


def test_a_worker_that_lost_its_connection_listens_again(
    postgres_site: Site, postgres_app: JobQueue
) -> None:
    site, app = postgres_site, postgres_app
    with app.worker(poll_s=POLL_S):
        wait_until_idle(site)
        site.sql("DELETE FROM jobq.idle_workers")  # as after a crash: the table is unlogged
        site.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        wait_until_idle(site)
        app.tasks["run"].enqueue()
        site.wait_until_done(1)


def test_nobody_is_notified_when_nobody_listens(
    postgres_site: Site, postgres_app: JobQueue
) -> None:
    site, app = postgres_site, postgres_app
    with psycopg.connect(conninfo(app.url), autocommit=True) as listening:
        listening.execute(f'LISTEN "{channel_of("jobq")}"')

        def notified_by(task: str, jobs: int = 1, delay_s: float = 0.0) -> int:
            app.enqueue_many([app.tasks[task].using(delay=delay_s).request()] * jobs)
            return len(list(listening.notifies(timeout=0.2)))

        assert notified_by("run") == 0
        site.sql("INSERT INTO jobq.idle_workers VALUES (0, 'W', '{default}', now())")
        assert notified_by("run") == 1
        assert notified_by("run", jobs=100) == 1, "once for a transaction"
        assert notified_by("elsewhere") == 0, "the worker does not serve that queue"
        assert notified_by("run", delay_s=60.0) == 0, "it is not due"
        site.sql("UPDATE jobq.idle_workers SET queues = NULL")
        assert notified_by("elsewhere") == 1


def test_a_busy_worker_does_not_listen(postgres_site: Site, postgres_app: JobQueue) -> None:
    """Each notification takes a lock of the whole server: only for those who need it."""
    site, app = postgres_site, postgres_app
    permits = threading.Semaphore(0)

    @app.task(name="held")
    def held() -> None:
        permits.acquire(timeout=60)

    with app.worker(poll_s=POLL_S, concurrency=2, prefetch=2):
        wait_until_idle(site)
        app.enqueue_many([held.request()] * 200)

        def is_off_the_list() -> bool:
            permits.release(1)
            return not listeners(site)

        wait_for(is_off_the_list, "the busy worker to listen no more", site)
        permits.release(200)
        site.wait_until_done(200)
        wait_until_idle(site)
    assert not listeners(site), "it said goodbye"


def test_a_worker_that_is_gone_is_forgotten(postgres_site: Site, postgres_app: JobQueue) -> None:
    site, app = postgres_site, postgres_app
    site.sql("INSERT INTO jobq.idle_workers VALUES (0, 'gone', NULL, now() - interval '1 hour')")
    with app.worker(poll_s=POLL_S):
        wait_for(lambda: len(listeners(site)) == 1 and "gone" not in listeners(site), "the list")


def test_a_worker_that_always_finds_something_asks_for_no_notifications(
    postgres_site: Site, postgres_app: JobQueue
) -> None:
    """Each enqueue would have to notify it, and none needs to."""
    is_over = threading.Event()

    @postgres_app.task(name="again")
    def again() -> None:
        if not is_over.is_set():
            again.enqueue()

    with postgres_app.worker(poll_s=POLL_S, concurrency=2):
        wait_until_idle(postgres_site)
        again.enqueue()
        wait_for(lambda: not listeners(postgres_site), "the worker to be too busy to listen")
        is_over.set()
        wait_until_idle(postgres_site)


def test_queues_without_a_job_for_this_worker_hide_none(site: Site, app: JobQueue) -> None:
    """A worker asks some of very many queues at a time, and those may hold what it cannot run."""
    newer = JobQueue(site.url)

    @newer.task(name="from_tomorrow")
    def from_tomorrow() -> None: ...

    newer.enqueue_many([from_tomorrow.using(queue=f"q{n}").request() for n in range(300)])
    known = app.tasks["run"].using(queue="q300").enqueue()
    with app.worker(poll_s=POLL_S, concurrency=1, prefetch=0):
        wait_for(lambda: known.status().state is State.DONE, "the one job to be found", site)
    newer.close()

"""What a worker survives: the database restarted, gone for a while, its sessions killed, the
network cut. Each ends with every job done and charged once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from jobq import DatabaseUnavailable, JobQueue, State, schema
from jobq.embedded import EmbeddedPostgres, StopMode
from jobq.failure_modes.proxy import Cut, proxy_to
from tests.worker.charges import charge, charge_in_session
from tests.worker.conftest import Site, opened, wait_for

KILL_SESSIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE application_name = 'jobq' AND datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture
def fragile_site(postgres_server: EmbeddedPostgres, tmp_path: Path) -> Iterator[Site]:
    """A site on a server of its own, to stop and start."""
    url = postgres_server.url()
    schema.upgrade(url)
    yield from opened(url, tmp_path)


def enqueue_charges(app: JobQueue, count: int) -> list[int]:
    requests = [task.request() for task in (charge, charge_in_session) for _ in range(count // 2)]
    return [job.id for job in app.enqueue_many(requests)]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_of_the_database(
    fragile_site: Site, postgres_server: EmbeddedPostgres, mode: StopMode
) -> None:
    site = fragile_site
    before = enqueue_charges(site.app, 200)
    with site.app.worker(poll_s=0.05, lease_s=2.0, concurrency=4):
        wait_for(lambda: len(site.charged()) >= 20, "the first charges", site)
        postgres_server.restart(mode)
        after = enqueue_charges(site.app, 50)
        site.wait_until_done(250)

    assert site.charged() == before + after


def test_a_database_that_is_gone_for_a_while(
    fragile_site: Site,
    postgres_server: EmbeddedPostgres,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = fragile_site
    monkeypatch.setattr("jobq.database.postgres.POOL_TIMEOUT_S", 1.0)
    jobs = enqueue_charges(site.app, 100)
    with site.app.worker(poll_s=0.05, lease_s=1.0, concurrency=4):
        wait_for(lambda: len(site.charged()) >= 10, "the first charges", site)
        postgres_server.stop("immediate")
        with pytest.raises(DatabaseUnavailable):
            charge.enqueue()
        wait_for(lambda: caplog.text.count("the database is away") >= 2, "two tries to reconnect")
        postgres_server.start()
        late: list[int] = []

        def enqueued() -> bool:
            with contextlib.suppress(DatabaseUnavailable):
                late.append(charge.enqueue().id)
            return bool(late)

        wait_for(enqueued, "the same queue object to enqueue again")
        site.wait_until_done(101)

    assert site.charged() == [*jobs, *late]


def test_sessions_killed_again_and_again(postgres_site: Site) -> None:
    site = postgres_site
    jobs = enqueue_charges(site.app, 200)
    with site.app.worker(poll_s=0.05, lease_s=1.0, concurrency=4):
        for share in range(1, 9):
            wait_for(lambda: len(site.charged()) >= share * 20, f"{share * 20} charges", site)  # noqa: B023
            site.sql(KILL_SESSIONS)
        site.wait_until_done(200)

    assert site.charged() == jobs


def test_a_network_that_is_cut_again_and_again(postgres_site: Site) -> None:
    site = postgres_site
    jobs = enqueue_charges(site.app, 200)
    with proxy_to(site.url) as wire:
        site.app._given_url = wire.url
        with site.app.worker(poll_s=0.05, lease_s=1.0, concurrency=4):
            for share in range(1, 9):
                wait_for(lambda: len(site.charged()) >= share * 20, f"{share * 20} charges", site)  # noqa: B023
                wire.cut_all()
            site.wait_until_done(200)

    assert site.charged() == jobs


def test_a_commit_whose_answer_is_lost_is_not_run_again(postgres_site: Site) -> None:
    """The proxy hands COMMIT on and cuts the wire before the answer, in an effect's transaction:
    the control link's commits are let through until the handler has begun."""
    site = postgres_site
    cut_now = threading.Event()
    app = JobQueue()

    with proxy_to(site.url) as wire:
        app._given_url = wire.url

        @app.task(name="cut")
        def cut() -> None:
            wire.cut(Cut.AFTER_COMMIT)
            cut_now.set()

        @app.task(name="charge_then_cut")
        def charge_then_cut() -> None:
            """No effect of its own: its record is what the lost COMMIT held."""

        job = charge_then_cut.enqueue()
        other = cut.enqueue()
        with app.worker(poll_s=0.05, lease_s=2.0, concurrency=1):
            wait_for(cut_now.is_set, "the proxy to be armed")
            wait_for(lambda: wire.has_cut, "a COMMIT to lose its answer")
            site.wait_until_done(2)
        ends = [(one.status().state, one.status().attempts) for one in (job, other)]
        app.close()

    assert ends == [(State.DONE, 1)] * 2
    assert site.rows("refusals") == []


def test_an_idle_worker_holds_two_connections(postgres_site: Site) -> None:
    site = postgres_site
    url = make_url(site.url).update_query_dict({"application_name": "idle"})
    app = JobQueue(url)

    @app.task(name="noop")
    def noop() -> None:
        """Nothing to do."""

    def held() -> int:
        with site.engine.connect() as connection:
            count: int = connection.exec_driver_sql(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idle'"
            ).scalar_one()
        return count

    assert noop.name == "noop"
    with app.worker(poll_s=0.05, lease_s=1.0):
        wait_for(lambda: site.rows("workers"), "the first heartbeat")
        wait_for(lambda: held() >= 2, "the worker's own connection")
        assert held() == 2
    app.close()

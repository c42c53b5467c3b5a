"""Metrics as Prometheus scrapes them: of a worker's attempts, and of the queue."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import Connection

from jobq import InvalidOption, Job, JobQueue, Limit, MissingExtra, Retry, Snooze, Task
from jobq.cli import main
from jobq.prometheus import Prometheus, QueueCollector, serving
from jobq.protocol.values import Lease
from jobq.revisions import revisions
from jobq.store.elapsed import elapse, expire
from tests.worker.conftest import BOUND_S, ROOT, Site, reap, wait_for


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def app(site: Site) -> Iterator[JobQueue]:
    app = JobQueue(site.url)
    yield app
    app.close()


def test_attempts_by_outcome(app: JobQueue, registry: CollectorRegistry) -> None:
    app.use(Prometheus(registry))

    @app.task(name="shop.fail", queue="q", max_attempts=2, retry=Retry(base_s=0.01))
    def fail() -> None:
        raise ValueError

    @app.task(name="shop.later", queue="q")
    async def later() -> None:
        raise Snooze(3600)

    @app.task(name="shop.fine")
    def fine() -> None: ...

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    jobs = [task.enqueue() for task in (fail, later, fine)]
    with app.worker(poll_s=0.05):
        jobs[0].wait(BOUND_S)
        jobs[2].wait(BOUND_S)
        of_later = {"task": "shop.later", "queue": "q"}
        wait_for(lambda: value("jobq_attempts_total", **of_later, outcome="snoozed"), "the snooze")

    of_fail, of_fine = (
        {"task": "shop.fail", "queue": "q"},
        {"task": "shop.fine", "queue": "default"},
    )
    assert value("jobq_attempts_total", **of_fail, outcome="failed") == 2
    assert value("jobq_attempts_total", **of_fine, outcome="committed") == 1
    assert value("jobq_retries_total", **of_fail) == 1
    assert value("jobq_buried_total", **of_fail) == 1
    assert value("jobq_handler_seconds_count", **of_fail) == 2
    assert value("jobq_wait_seconds_count", **of_fine) == 1
    assert value("jobq_refusals_total", stage="commit", reason="lease_lost") == 0
    assert value("jobq_recovered_total", fate="healed") == 0


def test_zombies_and_recoveries_of_two_apps_in_one_registry(
    app: JobQueue, registry: CollectorRegistry
) -> None:
    app.use(Prometheus(registry), Prometheus(registry))  # two apps would have one each
    is_held, may_go_on = threading.Event(), threading.Event()

    @app.task
    def hold(job: Job) -> None:
        if job.attempt == 1:
            is_held.set()
            may_go_on.wait(BOUND_S)

    job = hold.enqueue()
    late = {"stage": "commit", "reason": "already_committed"}
    with app.worker(poll_s=0.05, reconcile_s=0.05):
        assert is_held.wait(BOUND_S)
        app.database.run(expire(app.database.store.portable, Lease(job.id, 1)))
        job.wait(BOUND_S)
        may_go_on.set()
        wait_for(lambda: registry.get_sample_value("jobq_refusals_total", late) == 2, "the refusal")
    assert registry.get_sample_value("jobq_recovered_total", {"fate": "retried"}) == 2


def scraped(registry: CollectorRegistry) -> dict[str, float]:
    """What is exposed, by name and labels."""
    lines = generate_latest(registry).decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


@pytest.fixture
def queue(app: JobQueue, registry: CollectorRegistry) -> JobQueue:
    registry.register(QueueCollector(app, most=5))
    return app


def claim(app: JobQueue, task: Task[..., Any], number: int) -> list[Lease]:
    claimed = app.database.store.claim(
        worker="w", queues=[task.options.queue], tasks=[task.name], limit=number, lease_s=60
    )
    return [one.lease for one in app.database.run(claimed)]


def test_every_place_of_a_job_is_counted(queue: JobQueue, registry: CollectorRegistry) -> None:
    app, store = queue, queue.database.store

    @app.task(queue="mail")
    def mail() -> None: ...

    @app.task(queue="billing")
    def charge(db: Connection) -> None: ...

    @app.task(queue="limited", limits=[Limit("one", concurrency=1)])
    def limited() -> None: ...

    app.enqueue_many(mail.using(priority=n % 2).request() for n in range(9))
    app.enqueue_many(charge.request() for _ in range(4))
    app.enqueue_many(limited.request() for _ in range(3))
    app.enqueue_many(mail.using(delay=timedelta(days=1)).request() for _ in range(2))
    first = mail.using(delay=3_600).enqueue()
    mail.using(after=[first]).enqueue()
    app.queues.pause("mail")
    leased, committed, expired = claim(app, charge, 3)
    app.database.run(store.commit_record(committed))
    app.database.run(store.heartbeat("w", [leased], 60.0))
    app.database.run(elapse(store.portable, 30))
    app.database.run(expire(store.portable, expired))

    found = scraped(registry)
    assert found == {
        "jobq_database_up": 1,
        'jobq_jobs{queue="",state="ambiguous"}': 0,
        'jobq_jobs{queue="",state="dead"}': 0,
        'jobq_jobs{queue="",state="scheduled"}': 3,
        'jobq_jobs{queue="",state="waiting"}': 1,
        'jobq_jobs{queue="mail",state="ready"}': 5,  # and no further
        'jobq_jobs{queue="billing",state="ready"}': 1,
        'jobq_jobs{queue="billing",state="leased"}': 2,
        'jobq_jobs{queue="billing",state="committed"}': 1,
        'jobq_jobs{queue="limited",state="throttled"}': 3,
        'jobq_oldest_due_job_age_seconds{queue="mail"}': pytest.approx(30, abs=20),
        'jobq_oldest_due_job_age_seconds{queue="billing"}': pytest.approx(30, abs=20),
        'jobq_oldest_due_job_age_seconds{queue="limited"}': pytest.approx(30, abs=20),
        "jobq_promotion_lag_seconds": 0,
        "jobq_leases": 3,
        "jobq_leases_expired": 1,
        'jobq_queue_paused{queue="mail"}': 1,
        'jobq_workers{state="alive"}': 1,
        'jobq_workers{state="lost"}': 0,
        f'jobq_schema_info{{revision="{revisions()[-1]}"}}': 1,
    }


def test_jobs_that_nobody_promotes_and_workers_that_fell_silent(
    queue: JobQueue, registry: CollectorRegistry
) -> None:
    @queue.task
    def handle() -> None: ...

    store = queue.database.store
    handle.using(delay=60).enqueue()
    handle.using(priority=5).enqueue()
    queue.database.run(store.heartbeat("w", [], 60.0))
    queue.database.run(elapse(store.portable, 1_060))
    handle.using(priority=1).enqueue()

    found = scraped(registry)
    assert found["jobq_promotion_lag_seconds"] == pytest.approx(1_000, abs=20)
    # The oldest, though it is of a lower priority.
    age_s = found['jobq_oldest_due_job_age_seconds{queue="default"}']
    assert age_s == pytest.approx(1_060, abs=20)
    assert found['jobq_workers{state="lost"}'] == 1


def test_dead_and_ambiguous_jobs(queue: JobQueue, registry: CollectorRegistry) -> None:
    @queue.task(max_attempts=1)
    def fail() -> None:
        raise ValueError

    @queue.task(max_attempts=1, outside_effects="ask")
    def ask() -> None:
        raise ValueError

    fail.enqueue()
    ask.enqueue()
    with queue.worker(poll_s=0.05):
        wait_for(lambda: queue.ambiguous.list() and queue.dead.list(), "both to end")
    found = scraped(registry)
    assert found['jobq_jobs{queue="",state="dead"}'] == 1
    assert found['jobq_jobs{queue="",state="ambiguous"}'] == 1


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/at/all.db", "postgresql://jobq@127.0.0.1:9/none"]
)
def test_a_database_that_is_away(
    url: str, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.register(QueueCollector(JobQueue(url)))
    assert scraped(registry) == {"jobq_database_up": 0}
    assert "the queue cannot be measured" in caplog.text


def test_options_that_make_no_sense(app: JobQueue, registry: CollectorRegistry) -> None:
    with pytest.raises(InvalidOption, match="most is 0"):
        QueueCollector(app, most=0)
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as taken,
        pytest.raises(InvalidOption, match="choose another port"),
        serving(registry, "127.0.0.1", taken.getsockname()[1]),
    ):
        pass


def fetched(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=BOUND_S) as answer:
        return str(answer.read(), "utf-8")


def two_free_ports() -> int:
    """The first of two in a row."""
    for _ in range(100):
        with closing(socket.create_server(("127.0.0.1", 0))) as first:
            port: int = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
        return port
    raise AssertionError("no two ports in a row are free")


def test_each_process_of_a_worker_has_its_own_port(postgres_site: Site) -> None:
    site, first = postgres_site, two_free_ports()
    site.start_worker("--processes", "2", "--metrics-port", str(first))
    wait_for(lambda: site.log().count("metrics at") == 2, "both to serve")
    charge = site.app.tasks["tests.worker.charges.charge"]
    site.app.enqueue_many(charge.request() for _ in range(20))
    site.wait_until_done(20)

    told = re.findall(
        r'jobq_attempts_total\{outcome="committed".*?\} (\S+)',
        fetched(first) + fetched(first + 1),
    )
    assert sum(map(float, told)) == 20


def test_an_exporter_of_its_own(postgres_site: Site) -> None:
    site = postgres_site
    site.app.tasks["tests.worker.charges.charge"].enqueue()
    exporter = subprocess.Popen(
        [sys.executable, "-m", "jobq", "metrics", "--port", "0", "--database-url", site.url],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert exporter.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/metrics", exporter.stderr.readline())
        assert found is not None
        assert 'jobq_jobs{queue="default",state="ready"} 1.0' in fetched(int(found[1]))
        exporter.send_signal(signal.SIGTERM)
        assert exporter.wait(BOUND_S) == 0
    finally:
        reap(exporter)  # type: ignore[arg-type]
        exporter.stderr.close()  # type: ignore[union-attr]


def test_it_needs_its_extra(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "jobq.prometheus")
    with pytest.raises(MissingExtra, match=r"pip install 'jobq\[prometheus\]'"):
        __import__("jobq.prometheus")
    ran = CliRunner().invoke(main, ["metrics", "--database-url", site.url])
    assert "pip install 'jobq[prometheus]'" in ran.output


def test_a_database_that_is_not_migrated_is_told_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/empty.db"
    ran = CliRunner().invoke(main, ["metrics", "--database-url", url])
    assert ran.exit_code == 1
    assert "jobq upgrade" in ran.output

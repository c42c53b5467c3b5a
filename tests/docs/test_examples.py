"""Every Python example of the README and the guides runs, and its jobs end done."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sentry_sdk
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from starlette.testclient import TestClient

from jobq import InvalidArguments, Job, JobQueue, Retry, Snooze, State
from jobq.protocol.outside import step_key

pytest_plugins = ("pytester",)

ROOT = Path(__file__).parents[2]
BOUND_S = 30.0
UNDER_WAY = (State.WAITING, State.READY, State.THROTTLED, State.LEASED, State.COMMITTED)

metadata = MetaData()
ledger = Table("ledger", metadata, Column("order_id", Integer), Column("cents", Integer))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def app(database_url: str) -> Iterator[JobQueue]:
    app = JobQueue(database_url)
    yield app
    app.close()


@pytest.fixture
def names(app: JobQueue, engine: Engine) -> dict[str, Any]:
    """What the pages take as given."""

    async def send_mail(customer: str) -> None:
        """A mail server is not part of the example."""

    return {
        "__name__": "shop",
        "app": app,
        "engine": engine,
        "ledger": ledger,
        "insert": insert,
        "pytest": pytest,
        "Session": Session,
        "Job": Job,
        "Retry": Retry,
        "InvalidArguments": InvalidArguments,
        "UTC": UTC,
        "datetime": datetime,
        "timedelta": timedelta,
        "Snooze": Snooze,
        "is_ready": lambda order_id: False,
        "slow_computation": lambda order_id: order_id * 100,
        "send_mail": send_mail,
    }


def examples(page: str) -> list[str]:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks, f"{page} has no examples"
    return blocks


def run_page(page: str, blocks: list[str], names: dict[str, Any]) -> None:
    for number, block in enumerate(blocks, 1):
        code = compile(block, f"{page}, example {number}", "exec", dont_inherit=True)
        exec(code, names)


def drain(app: JobQueue) -> dict[State, int]:
    """Work until nothing is due."""
    with app.worker(poll_s=0.05):
        deadline_s = time.monotonic() + BOUND_S
        while True:
            counts = app.database.run(app.database.store.counts())
            if not sum(counts[state] for state in UNDER_WAY):
                return counts
            assert time.monotonic() < deadline_s, f"jobs are left after {BOUND_S} s: {counts}"
            time.sleep(0.02)


def test_readme(names: dict[str, Any], engine: Engine, database_url: str) -> None:
    first, in_a_service = examples("README.md")
    with Session(engine) as session, session.begin():
        names["session"] = session
        source = first.replace('"postgresql://localhost/shop"', repr(database_url))
        assert source != first
        run_page("README.md", [source], names)
    counts = drain(names["app"])
    names["app"].close()

    with engine.connect() as connection:
        charged = connection.execute(select(ledger)).all()
    assert charged == [(7, 999), (7, 999)]
    assert counts[State.DONE] == 2
    wrapped = "async def service():\n" + re.sub("^", "    ", in_a_service, flags=re.MULTILINE)
    compile(wrapped, "README.md", "exec")


def test_handlers(names: dict[str, Any], app: JobQueue, engine: Engine) -> None:
    run_page("docs/handlers.md", examples("docs/handlers.md"), names)
    names["charge"].enqueue(order_id=1, cents=5)
    names["settle"].enqueue(order_id=2)
    names["remind"].enqueue(customer="Ada")
    snoozed = names["collect"].enqueue(order_id=3)
    names["fetch"].enqueue(url="https://example.com")

    counts = drain(app)
    assert (counts[State.DONE], counts[State.SCHEDULED]) == (4, 1)
    assert snoozed.status().attempts == 0
    with engine.connect() as connection:
        charged = connection.execute(select(ledger).order_by(ledger.c.order_id)).all()
    assert charged == [(1, 5), (2, 200)]


class RateLimited(Exception):
    retry_after_s = 60.0


def test_retries(names: dict[str, Any], app: JobQueue) -> None:
    sent: list[str] = []

    def post(url: str) -> None:
        sent.append(url)
        if "limited" in url:
            raise RateLimited
        if "malformed" in url:
            raise ValueError(url)

    names |= {"RateLimited": RateLimited, "post": post, "find_customer": lambda _: None}
    run_page("docs/retries.md", examples("docs/retries.md"), names)
    limited = names["call"].enqueue(url="limited")
    for dead in [names["call"].request(url="malformed"), names["welcome"].request("Ada")]:
        app.enqueue_many([dead])

    counts = drain(app)
    assert (counts[State.SCHEDULED], counts[State.DEAD]) == (1, 2)
    assert limited.status().attempts == 0
    assert sorted(sent) == ["limited", "malformed"]


def test_limits(names: dict[str, Any], app: JobQueue) -> None:
    run_page("docs/limits.md", examples("docs/limits.md"), names)

    assert app.database.run(app.database.store.counts())[State.THROTTLED] == 1
    assert drain(app)[State.DONE] == 1


def test_queues(names: dict[str, Any], app: JobQueue) -> None:
    run_page("docs/queues.md", examples("docs/queues.md"), names)

    assert app.queues.list() == []


def test_dead_letters(names: dict[str, Any], app: JobQueue) -> None:
    is_mended = False

    @app.task(name="shop.refund", max_attempts=1)
    def refund(order_id: int) -> None:
        if not is_mended:
            raise ConnectionError

    @app.task(name="shop.invoice", max_attempts=1)
    def invoice(customer: str) -> None:
        if customer == "?":
            raise ValueError(customer)

    one, other = refund.enqueue(order_id=1), refund.using(queue="slow").enqueue(order_id=2)
    broken = invoice.enqueue(customer="?")
    assert drain(app)[State.DEAD] == 3
    is_mended = True
    looking, changing = examples("docs/dead-letters.md")
    run_page("docs/dead-letters.md", [changing], names)
    source = looking.replace("limit=20", "limit=1").replace("spread_s=600", "spread_s=0")
    run_page("docs/dead-letters.md", [source], names)
    app.dead.list()

    assert drain(app)[State.DONE] == 3
    assert [job.status().state for job in (one, other)] == [State.DONE] * 2
    assert broken.status().state is State.CANCELLED
    assert names["mended"].status().args == '{"customer":"Ada Lovelace"}'


def test_results(names: dict[str, Any], app: JobQueue) -> None:
    enqueue, wait, boundary, progress = examples("docs/results.md")
    names["select"] = select
    run_page("docs/results.md", [enqueue, boundary, progress], names)
    settled = names["settle"].enqueue(order_id=7)
    exported = names["export"].enqueue(pages=3)
    with app.worker(poll_s=0.05):
        run_page("docs/results.md", [wait], names)
        assert settled.result(BOUND_S) == 700
        assert exported.wait(BOUND_S).result is None
    assert names["cents"] in (0, 100)


def test_flows(names: dict[str, Any], app: JobQueue) -> None:
    run_page("docs/flows.md", examples("docs/flows.md"), names)

    with app.worker(poll_s=0.05):
        names["after"].wait(BOUND_S)
    counts = drain(app)
    assert (counts[State.DONE], counts[State.CANCELLED]) == (4 + 101 + 1, 1)
    assert names["done"].status().state is State.DONE
    assert names["failed"].status().state is State.CANCELLED


def test_batches(names: dict[str, Any], app: JobQueue, engine: Engine) -> None:
    run_page("docs/batches.md", examples("docs/batches.md"), names)

    assert drain(app)[State.DONE] == 1001
    with engine.connect() as connection:
        charged = connection.execute(select(ledger.c.order_id)).scalars().all()
    assert sorted(charged) == list(range(1001))


def test_processes(names: dict[str, Any], app: JobQueue) -> None:
    """Its jobs are run in tests/worker/test_handler_processes.py: they have to be in a module."""
    run_page("docs/processes.md", examples("docs/processes.md"), names)

    assert names["render"].is_in_process
    assert app.tasks["shop.render"].memory_mb == 512


def test_deploys(names: dict[str, Any], app: JobQueue, database_url: str) -> None:
    older = JobQueue(database_url)

    @older.task(name="shop.charge")
    def charge(order_id: int, euros: float) -> None: ...

    charge.enqueue(order_id=1, euros=2.5)
    older.close()
    run_page("docs/deploys.md", examples("docs/deploys.md"), names)
    names["charge"].enqueue(order_id=2, cents=5)
    assert drain(app)[State.DONE] == 2


def test_tenants(names: dict[str, Any], database_url: str) -> None:
    names["url"] = database_url
    names["JobQueue"] = JobQueue
    run_page("docs/tenants.md", examples("docs/tenants.md"), names)
    assert (names["north"].schema, names["south"].schema) == ("north", "south")


def test_pgbouncer(names: dict[str, Any]) -> None:
    names["JobQueue"] = JobQueue
    run_page("docs/pgbouncer.md", examples("docs/pgbouncer.md"), names)


def test_unique(names: dict[str, Any], app: JobQueue) -> None:
    run_page("docs/unique.md", examples("docs/unique.md"), names)

    assert drain(app)[State.DONE] == 2


def test_schedules(names: dict[str, Any], app: JobQueue) -> None:
    declaring, at_run_time = examples("docs/schedules.md")
    run_page("docs/schedules.md", [declaring], names)
    with app.worker(poll_s=0.05):
        deadline_s = time.monotonic() + BOUND_S
        while not app.schedules.list():
            assert time.monotonic() < deadline_s, "the schedule was not written"
            time.sleep(0.02)
    run_page("docs/schedules.md", [at_run_time], names)

    assert app.schedules.get("nightly-report").schedule.cron == "0 4 * * *"
    assert drain(app)[State.DONE] == 1


def test_retention(names: dict[str, Any], database_url: str) -> None:
    (source,) = examples("docs/retention.md")
    given = source.replace("JobQueue(", f"JobQueue({database_url!r}, ")
    run_page("docs/retention.md", [given], names)
    names["remind"].enqueue(customer="Ada")
    assert drain(names["app"])[State.DONE] == 1
    assert names["remind"].keep.committed_s == 3600
    names["app"].close()


class Payments:
    """A payment service that is told of everything, and times out when it refunds."""

    def __init__(self) -> None:
        self.charged: list[str] = []

    def charge(self, order_id: int, cents: int, *, key: str) -> str:
        self.charged.append(key)
        return f"receipt {order_id}"

    def refund(self, order_id: int) -> None:
        raise TimeoutError

    def was_refunded(self, key: UUID) -> bool:
        return True


def test_outside_effects(names: dict[str, Any], app: JobQueue, engine: Engine) -> None:
    steps, policies, asking, outbox = examples("docs/outside-effects.md")
    payments = Payments()
    reminded: list[str] = []
    confirmed: list[int] = []
    receipts = Table(
        "receipts",
        MetaData(),
        Column("order_id", Integer),
        Column("cents", Integer),
        Column("receipt", String),
    )
    receipts.metadata.create_all(engine)

    def send_confirmation(order_id: int) -> None:
        confirmed.append(order_id)

    names |= {
        "UUID": UUID,
        "payments": payments,
        "send_sms": reminded.append,
        "send_confirmation": send_confirmation,
        "ledger": receipts,
    }
    run_page("docs/outside-effects.md", [steps, policies, outbox], names)
    settled = names["settle"].enqueue(order_id=1, cents=5)
    names["remind"].enqueue(customer="Ada")
    names["refund"].enqueue(order_id=2)
    names["place_order"].enqueue(order_id=3, cents=7)
    counts = drain(app)
    assert (counts[State.DONE], counts[State.AMBIGUOUS]) == (4, 1)
    run_page("docs/outside-effects.md", [asking], names)

    assert drain(app)[State.DONE] == 5
    with engine.connect() as connection:
        written = connection.execute(select(receipts).order_by(receipts.c.order_id)).all()
    assert written == [(1, 5, "receipt 1"), (3, 7, None)]
    assert payments.charged == [str(step_key(settled.status().idempotency_key, "pay"))]
    assert (reminded, confirmed) == (["Ada"], [3])


def test_enqueueing(names: dict[str, Any], app: JobQueue) -> None:
    run_page("docs/handlers.md", examples("docs/handlers.md")[:1], names)
    run_page("docs/enqueueing.md", examples("docs/enqueueing.md"), names)

    counts = drain(app)
    assert counts[State.SCHEDULED] == 2
    assert counts[State.CANCELLED] == 1
    assert counts[State.DONE] == 1 + 1 + 1 + 1000


def test_middleware(names: dict[str, Any], app: JobQueue) -> None:
    """The events go to a transport of the test's own: Sentry's server is not part of it."""
    current_tenant: ContextVar[str] = ContextVar("current_tenant", default="acme")
    run_page(
        "docs/middleware.md",
        examples("docs/middleware.md"),
        names
        | {
            "current_tenant": current_tenant,
        },
    )
    events: list[Any] = []

    @app.task(max_attempts=2, retry=Retry(base_s=0.01))
    def fail() -> None:
        raise ValueError(f"for {current_tenant.get()}")

    @app.task
    def later() -> None:
        raise Snooze(3600)

    def keep(event: Any, _: object) -> None:
        events.append(event)

    sentry_sdk.init("http://key@127.0.0.1:9/1", before_send=keep, default_integrations=False)
    try:
        snoozed = later.enqueue()
        with app.worker(poll_s=0.05):
            assert fail.enqueue().wait(BOUND_S).state is State.DEAD
    finally:
        sentry_sdk.init()
    assert snoozed.status().state is State.SCHEDULED
    (event,) = events
    assert event["exception"]["values"][0]["value"] == "for acme"
    assert event["contexts"]["job"]["attempt"] == 2


async def test_integrations(names: dict[str, Any], app: JobQueue, engine: Engine) -> None:
    class Base(DeclarativeBase): ...

    class Signup(Base):
        __tablename__ = "signups"
        id: Mapped[int] = mapped_column(primary_key=True)

    @app.task
    def welcome(signup_id: int) -> None: ...

    Base.metadata.create_all(engine)
    driver = "sqlite+aiosqlite" if engine.dialect.name == "sqlite" else "postgresql+psycopg"
    async_engine = create_async_engine(engine.url.set(drivername=driver))
    names |= {
        "sessions": sessionmaker(engine),
        "async_engine": async_engine,
        "Signup": Signup,
        "welcome": welcome,
    }
    own = [one for one in examples("docs/integrations.md") if not one.startswith("# examples/")]
    run_page("docs/integrations.md", own, names)
    with names["sessions"].begin() as session:
        session.add(Signup())
    async with names["async_sessions"].begin() as session:
        session.add(Signup())
    with pytest.raises(ZeroDivisionError), names["sessions"].begin() as session:
        session.add(Signup())
        session.flush()
        1 / 0  # noqa: B018
    await async_engine.dispose()
    jobs = app.jobs.list().jobs
    assert [job.args for job in reversed(jobs)] == ['{"signup_id":1}', '{"signup_id":2}']


def test_dashboard(names: dict[str, Any]) -> None:
    run_page("docs/dashboard.md", examples("docs/dashboard.md"), names)
    client = TestClient(names["service"])
    assert client.get("/ops/jobs/").status_code == 403
    assert client.get("/ops/jobs/", headers={"x-forwarded-user": "ada"}).status_code == 200


def test_observability(tmp_path: Path, database_url: str) -> None:
    """In a process of its own: it configures logging and registers metrics for all of it."""
    structlog, context, otel, prometheus = examples("docs/observability.md")
    jobs = """
from prometheus_client import generate_latest

@app.task
def greet(name: str) -> None:
    structlog.get_logger("shop").info("hello", name=name)
    raise ValueError(name)

with app.worker(poll_s=0.05):
    greet.using(max_attempts=1).enqueue("Ada").wait(30)
print(generate_latest(REGISTRY).decode())
"""
    made = f"from jobq import JobQueue\napp = JobQueue({database_url!r})\n"
    (tmp_path / "shop.py").write_text("\n".join([made, structlog, context, otel, prometheus, jobs]))
    ran = subprocess.run(
        [sys.executable, "shop.py"], cwd=tmp_path, capture_output=True, text=True, timeout=BOUND_S
    )
    assert ran.returncode == 0, ran.stderr

    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    hello = next(line for line in lines if line["event"] == "hello")
    assert (hello["name"], hello["job_id"], hello["task"]) == ("Ada", 1, "shop.greet")
    failed = next(line for line in lines if "failed in attempt" in line["event"])
    (shown,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/observability.md").read_text(), re.S)
    assert set(json.loads(shown)) - set(failed) == {"message"}  # which structlog calls the event
    assert 'jobq_buried_total{queue="default",task="shop.greet"} 1.0' in ran.stdout
    assert 'jobq_jobs{queue="",state="dead"} 1.0' in ran.stdout


def test_testing(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's own tests pass, in a project of their own."""
    shop, *tests, plain = examples("docs/testing.md")
    pytester.makepyfile(shop=shop, test_shop="\n".join(tests), plain=plain)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    ran = pytester.runpytest_subprocess("-p", "jobq.testing.plugin", timeout=BOUND_S)
    ran.assert_outcomes(passed=7)
    assert pytester.runpython(pytester.path / "plain.py").ret == 0

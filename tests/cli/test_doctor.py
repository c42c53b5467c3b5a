"""`jobq doctor` on healthy databases, and on ones that were made ill in each way it knows."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text

from jobq import JobQueue, schema
from jobq.cli import main
from jobq.database.url import conninfo, parse_url
from jobq.doctor import Finding, Level, examine
from jobq.embedded import EmbeddedPostgres
from jobq.failure_modes.shop import Shop
from jobq.invariants import INVARIANTS
from tests.database.test_pgbouncer import pooled_url
from tests.shops import shop

__all__ = ["pooled_url", "shop"]


def found(url: str, *, pooled: bool = False) -> dict[str, Finding]:
    """What is not as it should be, by its check. The tests' own server may have no fsync."""
    queue = JobQueue(url, pooled=pooled)
    try:
        return {
            one.check: one
            for one in examine(queue)
            if one.level is not Level.OK and not one.message.startswith("fsync is off")
        }
    finally:
        queue.close()


def jobq(url: str, *arguments: str) -> tuple[int, str]:
    ran = CliRunner().invoke(main, ["doctor", *arguments], env={"JOBQ_DATABASE_URL": url})
    return ran.exit_code, ran.stdout


def alter(url: str, settings: str) -> None:
    name = parse_url(url).database
    with psycopg.connect(conninfo(parse_url(url)), autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" SET {settings}'.encode())


@pytest.fixture(scope="module")
def safe_server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        schema.upgrade(server.url())
        yield server


@pytest.fixture(params=["postgresql", "sqlite"])
def safe_url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        sqlite: str = request.getfixturevalue("sqlite_url")
        return sqlite
    server: EmbeddedPostgres = request.getfixturevalue("safe_server")
    return server.url()


def test_a_healthy_database(safe_url: str) -> None:
    code, told = jobq(safe_url)
    assert code == 0
    lines = [line for line in told.splitlines() if not line.startswith(" ")]
    assert all(line.startswith(("ok ", "warning ")) for line in lines)
    for number in (1, 4, 5, 7, 8, 9, 10):
        assert any(f" I{number}: " in line for line in lines), told
    as_json = json.loads(jobq(safe_url, "--json")[1])
    assert len(as_json) == len(lines)


def test_no_tables_and_no_server(empty_url: str) -> None:
    code, told = jobq(empty_url)
    assert code == 1
    assert told.startswith("FAILURE  database:")
    assert "jobq upgrade" in told
    assert told.count("\n") == 1
    assert "127.0.0.1:1" in jobq("postgresql://127.0.0.1:1/none")[1]


@pytest.fixture(params=["postgresql", "sqlite"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


class TestSettings:
    def test_of_the_session(self, safe_server: EmbeddedPostgres) -> None:
        postgres_url = safe_server.url()
        assert "durability" not in found(postgres_url)
        idle = found(postgres_url)["idle transactions"]
        assert "is 0" in idle.message
        name = parse_url(postgres_url).database
        assert str(idle.remedy).startswith(f'ALTER DATABASE "{name}" SET ')
        alter(postgres_url, "synchronous_commit = off")
        alter(postgres_url, "idle_in_transaction_session_timeout = '10min'")
        ill = found(postgres_url)
        assert "synchronous_commit is off" in ill["durability"].message
        assert ill["durability"].level is Level.WARNING
        assert "idle transactions" not in ill
        assert jobq(postgres_url)[0] == 0
        assert jobq(postgres_url, "--strict")[0] == 1

    def test_of_the_server(self, unsafe_server: EmbeddedPostgres) -> None:
        url = unsafe_server.url()
        schema.upgrade(url)
        ill = found(url)
        assert "full_page_writes is off" in ill["durability"].message
        assert ill["durability"].level is ill["vacuum"].level is Level.FAILURE
        assert "autovacuum is off" in ill["vacuum"].message
        assert "connections" in ill

    def test_read_only(self, postgres_url: str) -> None:
        alter(postgres_url, "default_transaction_read_only = on")
        assert "it is read-only" in found(postgres_url)["server"].message


@pytest.fixture
def unsafe_server() -> Iterator[EmbeddedPostgres]:
    settings = {
        "fsync": "off",
        "full_page_writes": "off",
        "autovacuum": "off",
        "max_connections": "7",
    }
    with EmbeddedPostgres(settings=settings) as server:
        yield server


def test_an_old_transaction(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobq.doctor.LONG_S", 0.0)
    with psycopg.connect(conninfo(parse_url(postgres_url))) as connection:
        connection.execute("SELECT 1")
        finding = found(postgres_url)["snapshots"]
        assert f"session {connection.info.backend_pid} of " in finding.message
        assert finding.remedy is not None
        assert "pg_terminate_backend" in finding.remedy


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="there is no pgbouncer")
def test_a_pooler_that_jobq_was_not_told_of(pooled_url: str, postgres_url: str) -> None:
    assert "PgBouncer" in found(pooled_url)["pooler"].message
    assert "pooler" not in found(pooled_url, pooled=True)
    assert "pooler" not in found(postgres_url)
    assert "leave out" in str(found(postgres_url, pooled=True)["pooler"].remedy)


def test_a_clock_that_is_off(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobq.doctor.DRIFT_S", -1.0)
    assert "Leases go by the database's alone" in found(database_url)["clock"].message


def test_due_jobs_and_nobody_there(shop: Shop) -> None:
    assert "workers" not in found(shop.url)
    shop.enqueue(queue="mail")
    assert "1 jobs are due" in found(shop.url)["workers"].message
    queue = JobQueue(shop.url)

    @queue.task
    def noop() -> None: ...

    with queue.worker(queues=["other"]):
        while not queue.workers.list():
            pass
        assert "queue 'mail' has 1 due jobs" in found(shop.url)["workers"].message
        queue.queues.pause("mail")
        assert "workers" not in found(shop.url)
    queue.close()


def test_a_worker_that_was_lost(shop: Shop) -> None:
    shop.heartbeat("A")
    long_ago = "1" if shop.is_sqlite else "'2000-01-01'"
    table = "jobq_workers" if shop.is_sqlite else "jobq.workers"
    engine = create_engine(parse_url(shop.url))
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {table} SET seen_at = {long_ago}"))
    engine.dispose()
    assert found(shop.url)["workers"].message.startswith("1 was lost without a word: A")


def test_what_was_left_behind(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobq.doctor.LONG_S", 0.0)
    shop.enqueue()
    shop.expire(shop.claim_one("crashed"))
    shop.enqueue(delay_s=0.001)
    dead = shop.enqueue(max_attempts=1)
    (claimed,) = [one for one in shop.claim("A", limit=5) if one.lease.job_id == dead]
    shop.fail(claimed.lease)
    while {"recovery", "promotion"} - (ill := found(shop.url)).keys():
        pass
    assert "1 leases" in ill["recovery"].message
    assert "1 scheduled jobs" in ill["promotion"].message
    assert "1 wait for a person" in ill["dead jobs"].message


BREAK = {
    "a job waits for others while there are any": (
        "INSERT INTO jobq.waiting (job_id, shard, runs_when, delay_s, token) "
        "VALUES ({other}, 0, 'done', 0, 0)"
    ),
    "a refused attempt changed nothing": (
        "INSERT INTO jobq.refusals (shard, job_id, token, stage, worker, reason, refused_at) "
        "SELECT shard, job_id, token, 'commit', 'A', 'lease_lost', recorded_at "
        "FROM jobq.commit_records"
    ),
    "every job is in exactly one place": "DELETE FROM jobq.ready WHERE job_id = {other}",
    "no place holds a job that does not exist": "DELETE FROM jobq.jobs WHERE id = {other}",
    "attempts never exceed max_attempts": "UPDATE jobq.ready SET attempts = 99",
    "the lease tokens of a job only grow": (
        "INSERT INTO jobq.attempts (job_id, shard, token, attempt, worker, started_at, ended_at, "
        "outcome) SELECT job_id, shard, token + 1, 1, 'B', recorded_at, recorded_at, 'failed' "
        "FROM jobq.commit_records"
    ),
    "no attempt begins after a fate is recorded": (
        "INSERT INTO jobq.leases (job_id, shard, token, attempt, worker, due_at, acquired_at, "
        "lease_expires_at) SELECT job_id, shard, token + 1, 2, 'B', recorded_at, recorded_at, "
        "recorded_at FROM jobq.commit_records"
    ),
    "concurrency limits hold": (
        "INSERT INTO jobq.limits (shard, name, concurrency) VALUES (0, 'one', 0); "
        "INSERT INTO jobq.slots (shard, key, job_id, token) "
        "SELECT 0, 'one=7', job_id, token FROM jobq.leases"
    ),
    "no job of a paused queue begins": (
        "INSERT INTO jobq.pauses (shard, queue, paused_at) SELECT 0, 'default', {long_ago}"
    ),
}


@pytest.mark.parametrize("claim", BREAK)
def test_rows_that_break_an_invariant(shop: Shop, claim: str) -> None:
    """A committed job, a leased one and one that is ready; then one row is wrong."""
    shop.enqueue()
    shop.enqueue()
    other = shop.enqueue()
    first, _ = shop.claim("A", limit=2)
    shop.complete(first.lease)
    assert not [one for one in found(shop.url).values() if one.level is Level.FAILURE]

    long_ago = "1" if shop.is_sqlite else "'2000-01-01'"
    prefix = "jobq_" if shop.is_sqlite else "jobq."
    engine = create_engine(parse_url(shop.url))
    with engine.begin() as connection:
        for statement in BREAK[claim].format(other=other, long_ago=long_ago).split("; "):
            connection.execute(text(statement.replace("jobq.", prefix)))
    engine.dispose()

    code, told = jobq(shop.url)
    assert code == 1
    assert f"violated: {claim}, and here " in told
    rows = re.findall(r"\((\w+=[^()]*)\)", told)
    assert rows, told
    assert all(re.fullmatch(r"\w+=\S+", value) for row in rows for value in row.split(", ")), rows
    assert not [row for row in rows if "?column?" in row]
    assert "report it" in told


def test_every_invariant_that_can_be_broken_by_a_row_is() -> None:
    """The unique key of the records is the database's to keep."""
    assert {one.claim for one in INVARIANTS} - BREAK.keys() == {
        "a job has at most one commit record"
    }

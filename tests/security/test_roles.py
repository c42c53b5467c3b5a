"""Each role does all that it is for, and is refused the rest by the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, insert
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from jobq import (
    InvalidOption,
    Job,
    JobHandle,
    JobQueue,
    Limit,
    NotMigrated,
    NotPermitted,
    Retention,
    Retry,
    State,
    Task,
    Unique,
    UnsupportedDatabase,
    chain,
    group,
)
from jobq import schema as migrations
from jobq.cli import main
from jobq.client import COPY_FROM_JOBS
from jobq.models import tables_for
from jobq.prometheus import QueueCollector
from jobq.protocol.retention import MIN_AGE_S, RetentionPolicy
from jobq.roles import Roles, grant_roles, grant_sql, revoke_roles, revoke_sql
from jobq.testing import drain
from tests.security.conftest import Granted

BOUND_S = 30.0
TABLES = sorted(tables_for("postgresql"))

ledger = Table("ledger", MetaData(), Column("job_id", Integer))


def tasks(app: JobQueue) -> dict[str, Task[..., Any]]:
    """The same tasks in every app: who enqueues and who works are different processes."""

    @app.task(name="charge", retry=Retry(base_s=0.01, cap_s=0.02))
    def charge(db: Session, job: Job, cents: int) -> int:
        db.execute(insert(ledger).values(job_id=job.id))
        if job.attempt == 1 and cents < 0:
            raise ValueError("not at the first attempt")
        return cents

    @app.task(name="call", limits=[Limit("calls", concurrency=1, by=["host"])])
    def call(job: Job, host: str) -> None:
        job.step("called", lambda: host)
        job.progress(1.0, host)

    return {"charge": charge, "call": call}


# -- enqueue only


def enqueue_everything(app: JobQueue) -> list[JobHandle]:
    """Every way in but COPY; the jobs in the order in which they were enqueued."""
    known = tasks(app)
    charge, call = known["charge"], known["call"]
    handles = [
        charge.enqueue(cents=1),
        charge.using(delay=0.01).enqueue(cents=2),
        charge.using(deadline=timedelta(hours=1)).enqueue(cents=3),
        charge.using(run_at=datetime.now(UTC), unique=Unique(key="one")).enqueue(cents=4),
        call.enqueue(host="a"),
        *app.enqueue_many([charge.request(cents=5), call.request(host="a")]),
        *app.enqueue_many(chain(charge.request(cents=6), call.request(host="b"))),
        *app.enqueue_many(group([charge.request(cents=7)] * 2, then=charge.request(cents=8))),
    ]
    handles.append(charge.using(after=handles[0]).enqueue(cents=9))
    with psycopg.connect(app.url.set(drivername="postgresql").render_as_string(False)) as own:
        handles.append(charge.enqueue_in(own, cents=10))
    return handles


def test_whoever_may_enqueue_only_enqueues_in_every_way(granted: Granted) -> None:
    app = granted.app_as(granted.roles.enqueue)
    handles = enqueue_everything(app)
    assert len({handle.id for handle in handles}) == len(handles)
    assert {handle.status().state for handle in handles} == {
        State.READY,
        State.SCHEDULED,
        State.THROTTLED,
        State.WAITING,
    }


def test_whoever_may_enqueue_only_enqueues_by_copy(granted: Granted) -> None:
    database = make_url(granted.url).database
    granted.owner(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
    charge = tasks(granted.app_as(granted.roles.enqueue))["charge"]
    requests = [charge.request(cents=1)] * COPY_FROM_JOBS
    with pytest.raises(NotPermitted, match="temporary"):
        charge.app.enqueue_many(requests)
    grant_roles(granted.url, prefix=granted.roles.prefix)
    assert len(charge.app.enqueue_many(requests)) == COPY_FROM_JOBS


def test_what_was_done_already_is_not_waited_for(granted: Granted) -> None:
    granted.owner("CREATE TABLE ledger (job_id int)")
    owner = granted.app_as_owner()
    first = tasks(owner)["charge"].enqueue(cents=1)
    drain(owner)
    charge = tasks(granted.app_as(granted.roles.enqueue))["charge"]
    assert charge.using(after=first).enqueue(cents=2).status().state is State.READY
    assert charge.using(after=first, when="failed").enqueue(cents=2).status().state is State.WAITING


def test_status_shows_where_a_job_is_and_not_what_it_holds(granted: Granted) -> None:
    charge = tasks(granted.app_as(granted.roles.enqueue))["charge"]
    job = charge.enqueue(cents=77)
    status = job.status()
    assert (status.state, status.task, status.args, status.result) == (
        State.READY,
        "charge",
        "",
        None,
    )
    reader = granted.app_as(granted.roles.read)
    assert reader.status(job.id).args == '{"cents":77}'


NOT_TO_ENQUEUE = [
    "SELECT args FROM jobq.jobs",
    "SELECT line FROM jobq.throttled",
    "SELECT result FROM jobq.commit_records",
    "SELECT error_message FROM jobq.attempts",
    "SELECT * FROM jobq.steps",
    "SELECT * FROM jobq.schedules",
    "SELECT * FROM jobq.progress",
    "DELETE FROM jobq.ready",
    "DELETE FROM jobq.scheduled",
    "DELETE FROM jobq.jobs",
    "UPDATE jobq.jobs SET args = '{}'",
    "UPDATE jobq.jobs SET task = 'other'",
    "UPDATE jobq.unique_keys SET shard = 1",
    "INSERT INTO jobq.leases SELECT FROM jobq.leases",
    "INSERT INTO jobq.commit_records SELECT FROM jobq.commit_records",
    "INSERT INTO jobq.pauses SELECT FROM jobq.pauses",
    "UPDATE jobq.alembic_version SET version_num = ''",
    "CREATE TABLE jobq.mine ()",
    "DROP TABLE jobq.jobs",
    "ALTER TABLE jobq.jobs ADD COLUMN mine int",
    "TRUNCATE jobq.jobs",
    "SELECT setval('jobq.jobs_id_seq', 1)",
]


def test_whoever_may_enqueue_only_is_refused(granted: Granted) -> None:
    for statement in NOT_TO_ENQUEUE:
        said = granted.refusal(granted.roles.enqueue, statement)
        assert "permission denied" in said or "must be owner" in said, statement


Call = Callable[[JobQueue, dict[str, Task[..., Any]], JobHandle], object]
CALLS: dict[str, Call] = {
    "cancel": lambda app, known, job: job.cancel(),
    "result": lambda app, known, job: job.result(timeout_s=BOUND_S),
    "attempts": lambda app, known, job: app.attempts(job.id),
    "steps": lambda app, known, job: app.steps(job.id),
    "dead letters": lambda app, known, job: app.dead.list(),
    "pause": lambda app, known, job: app.queues.pause("default"),
    "schedules": lambda app, known, job: app.schedules.list(),
    "work": lambda app, known, job: drain(app),
    "replace": lambda app, known, job: (
        known["charge"].using(unique=Unique(key="one", on_conflict="replace")).enqueue(cents=1)
    ),
}


def test_what_is_refused_says_who_what_and_the_remedy(granted: Granted) -> None:
    app = granted.app_as(granted.roles.enqueue)
    owner = granted.app_as_owner()
    job = tasks(owner)["charge"].using(unique=Unique(key="one")).enqueue(cents=1)
    known = tasks(app)
    for what, call in CALLS.items():
        with pytest.raises(NotPermitted) as refused:
            call(app, known, JobHandle(job.id, app))
        message = str(refused.value)
        assert granted.logins[granted.roles.enqueue] in message, what
        assert "permission denied for table" in message, what
        assert "jobq roles" in message, what
        assert "secret" not in message, what
    assert job.status().state is State.READY


def test_a_refused_enqueue_in_the_callers_transaction_says_so_too(granted: Granted) -> None:
    charge = tasks(granted.app_as(granted.roles.enqueue))["charge"]
    url = granted.url_as(granted.roles.read)
    with psycopg.connect(url) as connection, pytest.raises(NotPermitted, match="permission denied"):
        charge.enqueue_in(connection, cents=1)
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    with Session(engine) as session, pytest.raises(NotPermitted, match=r"table|sequence"):
        charge.enqueue_in(session, cents=1)
    engine.dispose()


# -- workers


def test_a_worker_needs_no_more_than_its_role(granted: Granted) -> None:
    granted.owner("CREATE TABLE ledger (job_id int)")
    granted.owner(f"GRANT INSERT ON ledger TO {granted.logins[granted.roles.worker]}")
    enqueuer = granted.app_as(granted.roles.enqueue)
    handles = enqueue_everything(enqueuer)
    failing = tasks(granted.app_as(granted.roles.enqueue))["charge"].enqueue(cents=-1)

    app = granted.app_as(granted.roles.worker)
    known = tasks(app)
    app.schedule("minutely", "* * * * *", known["charge"].request(cents=5))
    late = known["charge"].using(delay=3600, deadline=0.01).enqueue(cents=0)
    with app.worker(poll_s=0.05, prune_s=0.1):
        wait_for(lambda: all(ended(app, one.id) for one in [*handles, failing, late]))
    assert JobHandle(failing.id, app).result(BOUND_S) == -1
    assert late.status().state is State.DEAD
    with psycopg.connect(granted.url) as connection:
        applied = {job_id for (job_id,) in connection.execute("SELECT job_id FROM ledger")}
    charged = {one.id for one in handles if app.status(one.id).task == "charge"}
    assert applied >= {*charged, failing.id}


def test_operators_need_no_more_than_the_worker_role(granted: Granted) -> None:
    app = granted.app_as(granted.roles.worker)
    known = tasks(app)
    charge = known["charge"]
    app.queues.pause("default")
    assert app.queues.resume("default")
    app.schedule("minutely", "* * * * *", charge.request(cents=5))
    with app.worker(poll_s=0.05):
        wait_for(lambda: app.schedules.list())
    app.schedules.pause("minutely")
    app.schedules.run_now("minutely")
    app.schedules.delete("minutely")
    assert charge.enqueue(cents=1).cancel()
    charge.using(max_attempts=1, deadline=0.0, delay=60).enqueue(cents=1)
    with app.worker(poll_s=0.05):
        wait_for(lambda: app.dead.list(task="charge"))
    (dead, *_) = app.dead.list(task="charge")
    assert app.dead.retry(dead)
    key = Unique(key="k", on_conflict="replace")
    first = charge.using(unique=key, delay=60).enqueue(cents=1)
    charge.using(unique=key, delay=60).enqueue(cents=2)
    assert first.status().state is State.CANCELLED
    assert {*app.database.run(app.database.store.counts())} == {*State}
    granted.owner("UPDATE jobq.commit_records SET recorded_at = now() - interval '1 year'")
    policy = RetentionPolicy({}, Retention(committed_s=MIN_AGE_S))
    pruned = app.database.run(app.database.store.prune(policy, limit=100))
    assert pruned.total > 0


NOT_TO_WORK = [
    "UPDATE jobq.jobs SET args = '{}'",
    "UPDATE jobq.attempts SET error_message = ''",
    "UPDATE jobq.alembic_version SET version_num = ''",
    "TRUNCATE jobq.jobs",
    "CREATE TABLE jobq.mine ()",
    "DROP TABLE jobq.jobs",
    "ALTER TABLE jobq.jobs ADD COLUMN mine int",
]


def test_a_worker_is_refused(granted: Granted) -> None:
    for statement in NOT_TO_WORK:
        said = granted.refusal(granted.roles.worker, statement)
        assert "permission denied" in said or "must be owner" in said, statement


# -- reading


def test_a_reader_sees_everything(granted: Granted) -> None:
    enqueue_everything(granted.app_as(granted.roles.enqueue))
    app = granted.app_as(granted.roles.read)
    assert sum(app.database.run(app.database.store.counts()).values()) > 10
    assert [*app.dead.list(), *app.schedules.list(), *app.attempts(1), *app.steps(1)] == []
    assert app.queues.list()
    with psycopg.connect(granted.url_as(granted.roles.read)) as connection:
        for table in TABLES:
            connection.execute(f"SELECT * FROM jobq.{table}".encode())


def test_a_reader_may_measure_the_queue(granted: Granted) -> None:
    registry = CollectorRegistry()
    registry.register(QueueCollector(granted.app_as(granted.roles.read)))
    assert registry.get_sample_value("jobq_database_up") == 1


def test_a_reader_writes_nothing(granted: Granted) -> None:
    for table in TABLES:
        for statement in (
            f"DELETE FROM jobq.{table}",
            f"INSERT INTO jobq.{table} OVERRIDING SYSTEM VALUE SELECT * FROM jobq.{table}",
            f"UPDATE jobq.{table} SET shard = 0",
            f"SELECT FROM jobq.{table} FOR KEY SHARE",
        ):
            assert "permission denied" in granted.refusal(granted.roles.read, statement)


def test_a_readers_enqueue_is_refused(granted: Granted) -> None:
    charge = tasks(granted.app_as(granted.roles.read))["charge"]
    with pytest.raises(NotPermitted, match=granted.logins[granted.roles.read]):
        charge.enqueue(cents=1)


def test_a_stranger_is_told_so(granted: Granted) -> None:
    login = granted.logins[granted.roles.read]
    granted.owner(f"REVOKE {granted.roles.read} FROM {login}")
    with pytest.raises(NotPermitted, match="permission denied for schema"):
        granted.app_as(granted.roles.read).status(1)


# -- granting


def test_after_an_upgrade_to_grant_again_covers_new_tables_and_takes_back_old_rights(
    granted: Granted,
) -> None:
    granted.owner(
        "DROP TABLE jobq.pauses; CREATE TABLE jobq.pauses "
        "(shard smallint, queue text, paused_at timestamptz, resumes_at timestamptz, "
        "PRIMARY KEY (shard, queue))"
    )
    granted.owner(f"GRANT DELETE ON jobq.ready TO {granted.roles.enqueue}")
    app = granted.app_as(granted.roles.worker)
    with pytest.raises(NotPermitted, match="jobq roles grant"):
        app.queues.pause("default")
    assert grant_roles(granted.url, prefix=granted.roles.prefix) == granted.roles
    app.queues.pause("default")
    granted.refusal(granted.roles.enqueue, "DELETE FROM jobq.ready")


def test_revoked_roles_are_gone_and_to_revoke_again_is_nothing(postgres_url: str) -> None:
    roles = grant_roles(postgres_url, prefix="gone")
    migrations.downgrade(postgres_url)
    assert revoke_roles(postgres_url, prefix="gone") == []
    assert revoke_roles(postgres_url, prefix="gone") == []
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_roles WHERE rolname = ANY (%s)", [list(roles.names)]
        ).fetchone()
    assert found == (0,)


def test_a_role_that_another_database_uses_is_left(
    postgres_url: str, empty_postgres_url: str
) -> None:
    migrations.upgrade(empty_postgres_url)
    roles = grant_roles(postgres_url, prefix="shared")
    grant_roles(empty_postgres_url, prefix="shared")
    assert revoke_roles(postgres_url, prefix="shared") == sorted(roles.names)
    with psycopg.connect(postgres_url) as connection:
        row = connection.execute(
            "SELECT has_schema_privilege('shared_read', 'jobq', 'USAGE')"
        ).fetchone()
    assert row == (False,)
    assert revoke_roles(empty_postgres_url, prefix="shared") == []


def test_what_cannot_be_granted_is_refused(
    granted: Granted, empty_postgres_url: str, sqlite_url: str
) -> None:
    with pytest.raises(NotPermitted, match="owner"):
        grant_roles(granted.url_as(granted.roles.worker), prefix=granted.roles.prefix)
    with pytest.raises(NotMigrated):
        grant_roles(empty_postgres_url)
    with pytest.raises(UnsupportedDatabase, match="SQLite has no roles"):
        grant_roles(sqlite_url)
    for bad in ('a"; DROP TABLE x; --', "pg_jobq", "", "x" * 56, "Ä"):
        with pytest.raises(InvalidOption, match="prefix"):
            grant_sql(prefix=bad)
        with pytest.raises(InvalidOption):
            revoke_sql("a; b")


def test_roles_are_named_after_the_schema(granted: Granted) -> None:
    script = grant_sql("other")
    assert Roles("other").names == ("other_enqueue", "other_worker", "other_read")
    assert 'ON "other".ready TO other_enqueue' in script
    assert "jobq" not in script.replace("jobs_id_seq", "")


def test_the_command_grants_prints_and_revokes(postgres_url: str) -> None:
    """What it prints does the same, run by somebody else."""

    def jobq(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["roles", *arguments], env={"JOBQ_DATABASE_URL": ""})
        assert done.exit_code == 0, done.output
        return done.output

    def may_insert() -> list[Any]:
        with psycopg.connect(postgres_url) as connection:
            return connection.execute(
                "SELECT grantee, table_name FROM information_schema.table_privileges "
                "WHERE grantee LIKE 'told\\_%' AND privilege_type = 'INSERT' ORDER BY 1, 2"
            ).fetchall()

    database = ["--database-url", postgres_url]
    assert "told_enqueue, told_worker, told_read" in jobq("grant", *database, "--prefix", "told")
    by_command = may_insert()
    assert ("told_enqueue", "jobs") in by_command
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(jobq("sql", "--prefix", "told", "--revoke").encode())
        assert may_insert() == []
        connection.execute(jobq("sql", "--prefix", "told").encode())
        assert may_insert() == by_command
    assert jobq("revoke", *database, "--prefix", "told").endswith(": revoked\n")
    assert may_insert() == []


def ended(app: JobQueue, job_id: int) -> bool:
    return app.status(job_id).state in (State.DONE, State.DEAD, State.CANCELLED)


def wait_for(is_so: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + BOUND_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"waited {BOUND_S:g} s"
        time.sleep(0.02)

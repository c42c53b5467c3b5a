"""With keys, nothing that a job holds is in the database in clear, and everything works."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet
from sqlalchemy.engine import make_url

from jobq import (
    InvalidOption,
    Job,
    JobExists,
    JobHandle,
    JobQueue,
    KeyMissing,
    Limit,
    Retry,
    State,
    Task,
    Unique,
)
from jobq.encryption import HASH_KEY_VARIABLE, KEYS_VARIABLE, Encryption
from jobq.models import tables_for
from jobq.testing import assert_enqueued, drain

SECRET = "DE89 3704 0044 0532 0130 00"
OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))

Apps = Callable[..., JobQueue]


@pytest.fixture
def apps(database_url: str) -> Iterator[Apps]:
    """Apps on one database, each with keys of its own and the same tasks."""
    with ExitStack() as stack:

        def make(*keys: str, hash_key: str | None = None) -> JobQueue:
            app = JobQueue(database_url, encryption=Encryption(keys, hash_key=hash_key))
            stack.callback(app.close)
            return app

        yield make


@dataclass
class Seen:
    iban: str
    stepped: str


def tasks(app: JobQueue) -> Task[[str], Seen]:
    @app.task(
        name="pay",
        max_attempts=2,
        retry=Retry(base_s=0, cap_s=0),
        limits=[Limit("account", concurrency=1, by=["iban"])],
        unique=Unique(by=["iban"]),
    )
    def pay(job: Job, iban: str) -> Seen:
        if iban == "fail once" and job.attempt == 1:
            job.step("look", str.lower, iban)
            raise ValueError("once")
        return Seen(iban, job.step("look", str.lower, iban))

    return pay


def everything(url: str) -> str:
    """All that is stored in jobq's tables, as text."""
    if url.startswith("sqlite"):
        connection: Any = sqlite3.connect(str(make_url(url).database))
        prefix, backend = "jobq_", "sqlite"
    else:
        connection, prefix, backend = psycopg.connect(url), "jobq.", "postgresql"
    try:
        return "\n".join(
            str(row)
            for table in tables_for(backend)
            for row in connection.execute(f"SELECT * FROM {prefix}{table}").fetchall()
        )
    finally:
        connection.close()


def execute(url: str, statement: str) -> None:
    if url.startswith("sqlite"):
        connection = sqlite3.connect(str(make_url(url).database), isolation_level=None)
        connection.execute(statement.replace("UPDATE jobq.", "UPDATE jobq_"))
        connection.close()
    else:
        with psycopg.connect(url, autocommit=True) as postgres:
            postgres.execute(statement.encode())


def test_nothing_that_a_job_holds_is_stored_in_clear(apps: Apps, database_url: str) -> None:
    app = apps(NEW)
    pay = tasks(app)
    app.schedule("daily", "0 0 * * *", pay.using(unique=None).request(SECRET))
    job = pay.enqueue(SECRET)
    keyed = pay.using(unique=Unique(key=f"for {SECRET}"), delay=3600).enqueue(SECRET)
    with app.worker(poll_s=0.02):
        assert job.result(30) == Seen(SECRET, SECRET.lower())
    assert app.schedules.get("daily").schedule.cron == "0 0 * * *"
    stored = everything(database_url)
    for clear in (SECRET, SECRET.lower(), "iban", "3704"):
        assert clear not in stored
    assert stored.count("jobq.encrypted") == 5  # two jobs, the result, the step, the schedule
    assert json.loads(job.status().args).keys() == {"jobq.encrypted"}
    assert json.loads(job.status().result or "").keys() == {"jobq.encrypted"}
    assert pay.read(keyed.status().task, keyed.status().args) == {"iban": SECRET}


def test_without_keys_nothing_changes(apps: Apps) -> None:
    pay = tasks(apps())
    job = pay.enqueue(SECRET)
    assert job.status().args == json.dumps({"iban": SECRET}, separators=(",", ":"))
    assert pay.request(SECRET).args_digest is None


def test_equal_arguments_are_equal_and_limits_hold(apps: Apps) -> None:
    pay = tasks(apps(NEW))
    first, second = pay.enqueue(SECRET), pay.enqueue(SECRET)
    assert (second.id, second.is_new) == (first.id, False)
    assert pay.enqueue("another").is_new
    lines = [pay.request(iban).line for iban in (SECRET, SECRET, "another")]
    assert lines[0] == lines[1] != lines[2]
    assert SECRET not in str(lines)
    loud = pay.using(unique=Unique(by=["iban"], on_conflict="raise"))
    with pytest.raises(JobExists) as exists:
        loud.enqueue(SECRET)
    assert SECRET not in str(exists.value)
    assert [status.state for status in drain(pay.app)] == [State.DONE] * 2


def test_keys_are_rotated_while_jobs_wait(apps: Apps) -> None:
    """The three deploys of a rotation: to read the new key, to write it, to forget the old one."""
    first, reads, writes, last = (
        apps(*keys, hash_key=OTHER) for keys in ([OLD], [OLD, NEW], [NEW, OLD], [NEW])
    )
    before = tasks(first).enqueue("before")
    writes_pay = tasks(writes)
    meanwhile = writes_pay.enqueue("meanwhile")
    pay = tasks(reads)
    assert not pay.enqueue("before").is_new
    assert not pay.enqueue("meanwhile").is_new
    assert [status.state for status in drain(reads)] == [State.DONE] * 2
    tasks(last)
    results = [JobHandle(job.id, writes).result(1) for job in (before, meanwhile)]
    assert results == [Seen(iban, iban) for iban in ("before", "meanwhile")]
    afterwards = writes_pay.enqueue("afterwards")
    assert [status.state for status in drain(last)] == [State.DONE]
    assert JobHandle(afterwards.id, last).result(1) == Seen("afterwards", "afterwards")
    with pytest.raises(KeyMissing, match="none of the app's 1 keys opens it"):
        JobHandle(before.id, last).result(1)


def test_a_job_from_before_encryption_runs(apps: Apps) -> None:
    tasks(apps()).enqueue(SECRET)
    app = apps(NEW)
    tasks(app)
    assert [status.state for status in drain(app)] == [State.DONE]


@pytest.mark.parametrize("keys", [(), (OTHER,)], ids=["no key", "another key"])
def test_a_worker_without_the_key_fails_by_name_and_loses_nothing(
    apps: Apps, keys: tuple[str, ...]
) -> None:
    job = tasks(apps(NEW)).enqueue(SECRET)
    blind = apps(*keys)
    tasks(blind)
    assert [status.state for status in drain(blind, raises=False)] == [State.SCHEDULED, State.DEAD]
    (dead,) = blind.dead.list(error_type="jobq.KeyMissing")
    assert dead.error is not None
    assert KEYS_VARIABLE in dead.error.message
    assert dead.args.startswith('{"jobq.encrypted": "')
    assert blind.steps(job.id) == []
    app = apps(NEW)
    tasks(app)
    assert app.dead.retry_all(error_type="jobq.KeyMissing") == 1
    assert [status.state for status in drain(app)] == [State.DONE]
    assert job.result(1) == Seen(SECRET, SECRET.lower())


def test_a_step_of_an_earlier_attempt_is_opened(apps: Apps) -> None:
    pay = tasks(apps(NEW))
    job = pay.enqueue("fail once")
    drain(pay.app, raises=False)
    assert job.result(1) == Seen("fail once", "fail once")


def test_a_batch_without_the_key_fails_job_by_job(apps: Apps) -> None:
    seen: list[str] = []

    def batched(app: JobQueue) -> Task[[str], None]:
        @app.batch_task(size=10, name="index", max_attempts=1)
        def index(documents: list[str]) -> None:
            seen.extend(documents)

        return index

    clear, sealed = batched(apps()).enqueue("clear"), batched(apps(NEW)).enqueue("sealed")
    blind = apps()
    batched(blind)
    with blind.worker(poll_s=0.02):
        assert clear.wait(30).state in (State.COMMITTED, State.DONE)
        assert sealed.wait(30).state is State.DEAD
    assert seen == ["clear"]


def test_dead_jobs_are_replaced_under_the_newest_key(apps: Apps) -> None:
    def failing(app: JobQueue) -> Task[[str, int], None]:
        @app.task(name="charge", max_attempts=1)
        def charge(iban: str, cents: int) -> None:
            raise ValueError

        return charge

    failing(apps(OLD)).enqueue(SECRET, 5)
    app = apps(NEW, OLD)
    charge = failing(app)
    drain(app, raises=False)
    (dead,) = app.dead.list()
    replaced = app.dead.replace(dead, cents=7)
    assert replaced is not None
    stored = replaced.status()
    newest = failing(apps(NEW))
    assert newest.read(stored.task, stored.args) == {"iban": SECRET, "cents": 7}
    assert assert_enqueued(app, charge, cents=7).arguments["iban"] == SECRET


def test_older_versions_are_opened_and_upgraded(apps: Apps) -> None:
    old, new, seen = apps(NEW), apps(NEW), []

    @old.task(name="charge")
    def charge(cents: int) -> None: ...

    @new.task(name="charge", version=2, upgrade=lambda version, given: {"euros": given["cents"]})
    def charge_euros(euros: int) -> None:
        seen.append(euros)

    charge.enqueue(7)
    drain(new)
    assert seen == [7]


def test_a_schedule_is_the_same_for_as_long_as_its_arguments_are(apps: Apps) -> None:
    """Encrypted anew by each process, they differ every time; what an operator changed stays until
    another key encrypts."""
    edited, declared = "1 1 * * *", "0 0 * * *"
    for keys, expected in (
        ([OLD], declared),
        ([OLD], edited),
        ([OLD, NEW], edited),
        ([NEW, OLD], declared),
        ([NEW], edited),
    ):
        app = apps(*keys, hash_key=OTHER)
        pay = tasks(app)
        app.schedule("daily", declared, pay.using(unique=None).request(SECRET))
        job = pay.using(unique=None).enqueue("another")
        with app.worker(poll_s=0.02):
            job.wait(30)  # schedules are declared before the first claim
        assert app.schedules.get("daily").schedule.cron == expected
        app.schedules.edit("daily", cron=edited)
    app.schedules.run_now("daily")
    assert [status.state for status in drain(app)] == [State.DONE]


def test_what_was_changed_or_moved_is_not_opened(apps: Apps, database_url: str) -> None:
    app = apps(NEW)
    pay = tasks(app)
    job = pay.using(unique=None).enqueue(SECRET)
    sealed = job.status().args
    other = Encryption([NEW]).seal("arguments of task 'refund'", '{"iban":"mine"}')
    token = sealed.partition(': "')[2]
    for args, said in (
        (sealed.replace(token[20:24], "AAAA"), "or it was changed"),
        (other, "in the place of another"),
        ('{"jobq.encrypted": "\u00fc"}', "or it was changed"),
        ('{"jobq.encrypted": ""}', "or it was changed"),
    ):
        execute(database_url, f"UPDATE jobq.jobs SET args = '{args}'")
        status = job.status()
        with pytest.raises(KeyMissing, match=said):
            pay.read(status.task, status.args)


def test_a_result_that_looks_encrypted_is_not_taken_for_it(apps: Apps) -> None:
    app = apps()

    @app.task
    def imitate() -> dict[str, str]:
        return {"jobq.encrypted": "x"}

    job = imitate.enqueue()
    drain(app)
    assert job.result(1) == {"jobq.encrypted": "x"}


def test_results_of_tasks_that_the_app_does_not_have_are_opened(apps: Apps) -> None:
    pay = tasks(apps(NEW))
    job = pay.enqueue("one")
    drain(pay.app)
    assert JobHandle(job.id, apps(NEW)).result(1) == {"iban": "one", "stepped": "one"}


def test_bad_keys_are_refused_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for keys in (["secret but short"], [NEW, ""], [NEW, NEW[:-2]], NEW, [None]):
        with pytest.raises(InvalidOption) as refused:
            JobQueue("sqlite:///none.db", encryption=keys)  # type: ignore[arg-type]
        message = str(refused.value)
        assert "secret" not in message
        assert NEW[:8] not in message
    with pytest.raises(InvalidOption):
        Encryption([NEW], hash_key="short")
    monkeypatch.setenv(KEYS_VARIABLE, f" {NEW}, {OLD},")
    by_environment = JobQueue("sqlite:///none.db").encryption
    assert by_environment.unseal("a", Encryption([OLD]).seal("a", "x")) == "x"
    assert Encryption([NEW]).unseal("a", by_environment.seal("a", "x")) == "x"
    assert by_environment.digest("x") == Encryption([OLD]).digest("x")
    monkeypatch.setenv(HASH_KEY_VARIABLE, OTHER)
    assert JobQueue("sqlite:///none.db").encryption.digest("x") == Encryption([OTHER]).digest("x")
    assert JobQueue("sqlite:///none.db", encryption=()).encryption.digest("x") is None


def test_without_the_library_keys_say_what_to_install() -> None:
    script = (
        "import sys; sys.modules['cryptography.fernet'] = None\n"
        "from jobq import JobQueue, MissingExtra\n"
        "JobQueue('sqlite:///none.db')\n"
        "try: JobQueue('sqlite:///none.db', encryption=['x'])\n"
        "except MissingExtra as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "pip install 'jobq[crypto]'" in done.stdout, done.stderr

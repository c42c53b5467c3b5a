"""The commit boundary on Django's connection, its interleavings played by gates."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, suppress

import psycopg
import pytest
from django.db import DatabaseError, Error, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError
from django.tasks import TaskResult, TaskResultStatus

from jobq import (
    AlreadyCommitted,
    EffectRolledBack,
    LeaseLost,
    Refusal,
    UnsupportedConnection,
    commit_effect_idempotent,
)
from jobq.django.queue import DjangoQueue
from jobq.protocol.states import State
from jobq.protocol.values import Lease
from tests.django.inside.books import tasks
from tests.django.inside.books.models import Account, Entry
from tests.django.inside.conftest import BOUND_S, finished, notes, wait_for


class Refused(Exception):
    pass


def claim(app: DjangoQueue, worker: str) -> Lease:
    database = app.database
    step = database.store.claim(
        worker=worker,
        queues=["default", "billing"],
        tasks=["tests.django.inside.books.tasks.charge"],
        limit=1,
        lease_s=60.0,
    )
    (claimed,) = database.run(step)
    return claimed.lease


def expire(lease: Lease) -> None:
    is_sqlite = connection.vendor == "sqlite"
    table, past = ("jobq_leases", "0") if is_sqlite else ("jobq.leases", "'2000-01-01'")
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET lease_expires_at = {past} "
            f"WHERE job_id = {lease.job_id} AND token = {lease.token}"
        )


def recover(app: DjangoQueue, lease: Lease) -> None:
    expire(lease)
    database = app.database
    database.run(database.store.reconcile(10, lambda _: 0.0))
    database.run(database.store.promote(10))


def effect(app: DjangoQueue, lease: Lease) -> AbstractContextManager[BaseDatabaseWrapper]:
    return commit_effect_idempotent(app.database, lease, BaseDatabaseWrapper)


def state(app: DjangoQueue) -> State:
    (job,) = app.jobs.list().jobs
    return app.status(job.id).state


@pytest.fixture
def lease(app: DjangoQueue) -> Lease:
    tasks.charge.enqueue("order")
    return claim(app, "A")


# -- FM_001


def test_reproduces_two_effects_of_a_job_whose_lease_expired(app: DjangoQueue) -> None:
    """A task that commits in an `atomic` of its own, as other backends run it."""
    play_two_attempts(app, "charge_naively")

    assert notes() == ["charge_naively", "charge_naively"], "the harm"


def test_prevented_two_effects_of_a_job_whose_lease_expired(app: DjangoQueue) -> None:
    result = play_two_attempts(app, "charge_late")

    assert notes() == ["charge_late"]
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert result.attempts == 2


def play_two_attempts(app: DjangoQueue, name: str) -> TaskResult:
    """A stops before its effect; its lease expires; B does the job; A goes on."""
    app.register_declared()
    gate = tasks.gates[name] = tasks.Gate()
    result = getattr(tasks, name).enqueue(name)
    with app.worker(concurrency=1, reconcile_s=3600.0):
        assert gate.reached.wait(BOUND_S), "waited for A to come to the gate"
        leased = Lease(int(result.id), 1)
        with app.worker(concurrency=1, poll_s=0.05, reconcile_s=0.05):

            def is_done_by_b() -> bool:
                expire(leased)  # again, should A's heartbeat have come in between
                result.refresh()
                return bool(result.is_finished)

            wait_for(is_done_by_b, "B to do the job")
        gate.opened.set()
        # Its lease is lost, so its worker would not wait for it.
        wait_for(lambda: len(tasks.heard) == 2, "A to try as well")
    return result


def test_a_zombie_is_refused_while_the_live_attempt_is_at_work(
    app: DjangoQueue, lease: Lease, on_sqlite: bool
) -> None:
    """Two threads, two of Django's connections, two open transactions; on SQLite one after the
    other."""
    recover(app, lease)
    live = claim(app, "B")
    has_charged, may_commit = threading.Event(), threading.Event()

    def run_live() -> None:
        with effect(app, live):
            Entry.objects.create(note="B")
            has_charged.set()
            assert on_sqlite or may_commit.wait(BOUND_S)
        connections.close_all()

    thread = threading.Thread(target=run_live)
    thread.start()
    assert has_charged.wait(BOUND_S)
    if on_sqlite:
        thread.join(BOUND_S)
    with pytest.raises(LeaseLost if not on_sqlite else AlreadyCommitted), effect(app, lease):
        Entry.objects.create(note="A")
    may_commit.set()
    thread.join(BOUND_S)

    assert notes() == ["B"]
    assert state(app) is State.COMMITTED


def test_one_lease_commits_once(app: DjangoQueue, lease: Lease) -> None:
    with effect(app, lease):
        Entry.objects.create(note="first")
    with pytest.raises(AlreadyCommitted), effect(app, lease):
        Entry.objects.create(note="second")

    assert notes() == ["first"]


def test_a_refusal_passes_through_what_swallows_exceptions(app: DjangoQueue, lease: Lease) -> None:
    recover(app, lease)
    with pytest.raises(Refusal), suppress(Exception), effect(app, lease):
        Entry.objects.create(note="zombie")
    assert notes() == []
    Entry.objects.create(note="the connection is usable")


# -- an effect and its record are one


def test_what_fails_leaves_neither(app: DjangoQueue, lease: Lease) -> None:
    with pytest.raises(Refused), effect(app, lease):
        Entry.objects.create(note="order")
        raise Refused

    assert notes() == []
    assert state(app) is State.LEASED
    with effect(app, lease):
        Entry.objects.create(note="again")
    assert notes() == ["again"]
    assert state(app) is State.COMMITTED


def test_django_refuses_to_end_the_transaction(app: DjangoQueue, lease: Lease) -> None:
    with effect(app, lease):
        Entry.objects.create(note="order")
        for end in (transaction.commit, transaction.rollback):
            with pytest.raises(TransactionManagementError):
                end()
        with pytest.raises(TransactionManagementError):
            transaction.set_autocommit(True)
    assert notes() == ["order"]


def test_commit_in_sql_commits_with_the_record_or_is_refused(
    app: DjangoQueue, lease: Lease, on_sqlite: bool
) -> None:
    if on_sqlite:
        with pytest.raises(DatabaseError, match="not authorized"), effect(app, lease):
            Entry.objects.create(note="order")
            connection.cursor().execute("COMMIT")
        assert (notes(), state(app)) == ([], State.LEASED)
        return
    with pytest.raises(EffectRolledBack), effect(app, lease):
        Entry.objects.create(note="order")
        connection.cursor().execute("COMMIT")
        Entry.objects.create(note="outside")
    assert (notes(), state(app)) == (["order"], State.COMMITTED)


def test_rollback_in_sql_commits_nothing(app: DjangoQueue, lease: Lease) -> None:
    with pytest.raises((EffectRolledBack, DatabaseError)), effect(app, lease):
        Entry.objects.create(note="order")
        connection.cursor().execute("ROLLBACK")
        Entry.objects.create(note="outside")
    assert (notes(), state(app)) == ([], State.LEASED)


def test_sqlite_rolls_back_by_itself_and_what_follows_is_refused(
    app: DjangoQueue, lease: Lease, on_sqlite: bool
) -> None:
    if not on_sqlite:
        pytest.skip("PostgreSQL has no such conflict clause")
    Account.objects.create(name="taken")
    with pytest.raises(TransactionManagementError, match="rolled back"), effect(app, lease):
        Entry.objects.create(note="before")
        with suppress(Error):
            connection.cursor().execute(
                "INSERT OR ROLLBACK INTO books_account (name) VALUES ('taken')"
            )
        Entry.objects.create(note="after")
    assert (notes(), state(app)) == ([], State.LEASED)


def test_a_rollback_that_was_asked_for(app: DjangoQueue, lease: Lease) -> None:
    with pytest.raises(EffectRolledBack), effect(app, lease):
        Entry.objects.create(note="order")
        transaction.set_rollback(True)
    assert (notes(), state(app)) == ([], State.LEASED)


def test_a_connection_that_is_closed_inside(app: DjangoQueue, lease: Lease) -> None:
    with pytest.raises(EffectRolledBack), effect(app, lease):
        Entry.objects.create(note="order")
        connection.close()
    assert (notes(), state(app)) == ([], State.LEASED)


def test_a_block_that_was_left_open(app: DjangoQueue, lease: Lease) -> None:
    with pytest.raises(EffectRolledBack), effect(app, lease):
        transaction.atomic().__enter__()
        Entry.objects.create(note="order")
    assert (notes(), state(app)) == ([], State.LEASED)
    with transaction.atomic():
        Entry.objects.create(note="the connection is usable")


def test_a_constraint_that_is_looked_at_when_it_is_committed(
    app: DjangoQueue, lease: Lease, on_sqlite: bool
) -> None:
    if on_sqlite:
        pytest.skip("its unique constraints cannot be deferred")
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMPORARY TABLE deferred (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)"
        )
    with pytest.raises(DatabaseError, match="duplicate key"), effect(app, lease):
        Entry.objects.create(note="order")
        transaction.on_commit(lambda: pytest.fail("called back, and nothing was committed"))
        connection.cursor().execute("INSERT INTO deferred VALUES (1), (1)")
    assert (notes(), state(app)) == ([], State.LEASED)
    with transaction.atomic():
        Entry.objects.create(note="another transaction, which is committed")


# -- the connection is Django's


def test_settings_are_the_transactions_and_are_given_back(
    app: DjangoQueue, lease: Lease, on_sqlite: bool
) -> None:
    if on_sqlite:
        with effect(app, lease):
            assert connection.in_atomic_block
        assert connection.execute_wrappers == []
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.cursor().execute("BEGIN")
        connection.cursor().execute("COMMIT")
        return
    names = (
        "transaction_isolation",
        "idle_in_transaction_session_timeout",
        "synchronous_commit",
        "enable_seqscan",
    )
    # A worker's, which has a limit.
    database = app.open_database(max_connections=1, idle_in_transaction_s=48.0)
    connection.ensure_connection()
    connection.connection.isolation_level = 4  # SERIALIZABLE
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        cursor.execute("SET default_transaction_isolation = 'serializable'")
    with commit_effect_idempotent(database, lease, BaseDatabaseWrapper):
        inside = [show(name) for name in names]
    outside = [show(name) for name in names]
    isolation_level = connection.connection.isolation_level
    connection.close()
    database.close()

    assert inside == ["read committed", "48s", "on", "on"]
    assert outside == ["serializable", "0", "off", "on"]
    assert isolation_level == 4


def show(name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW {name}")
        return str(cursor.fetchone()[0])


def test_a_transaction_that_is_open_already_is_not_taken(app: DjangoQueue, lease: Lease) -> None:
    with (
        pytest.raises(UnsupportedConnection, match="TransactionTestCase"),
        transaction.atomic(),
        effect(app, lease),
    ):
        Entry.objects.create(note="order")
    assert (notes(), state(app)) == ([], State.LEASED)


def kill_djangos_connection() -> None:
    """As a restart of the server does, seen from here."""
    pid = connection.connection.info.backend_pid
    with connections["default"].copy().cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 60000)", [pid])
        cursor.connection.close()


def test_a_connection_that_died_while_it_was_idle_is_replaced(
    app: DjangoQueue, lease: Lease, on_sqlite: bool
) -> None:
    if on_sqlite:
        pytest.skip("a file does not go away")
    connection.ensure_connection()
    kill_djangos_connection()
    with effect(app, lease):
        Entry.objects.create(note="order")
    assert notes() == ["order"]


def test_a_connection_that_dies_before_its_commit_commits_nothing(
    app: DjangoQueue, lease: Lease, on_sqlite: bool
) -> None:
    """FM_009: what became of it is looked up, and not guessed."""
    if on_sqlite:
        pytest.skip("a file does not go away")
    with pytest.raises(psycopg.OperationalError), effect(app, lease):
        Entry.objects.create(note="order")
        kill_djangos_connection()
    assert (notes(), state(app)) == ([], State.LEASED)
    with effect(app, lease):
        Entry.objects.create(note="again")
    assert notes() == ["again"]


def test_a_commit_whose_answer_is_lost_is_known_to_have_taken_place(
    app: DjangoQueue, lease: Lease, on_sqlite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FM_009: the COMMIT reaches the server, and the connection breaks before its answer."""
    if on_sqlite:
        pytest.skip("a file does not go away")
    called: list[str] = []
    with effect(app, lease):
        Entry.objects.create(note="order")
        transaction.on_commit(lambda: called.append("back"))
        wrapper, driver = connection._connections["default"], connection.connection

        def commit() -> None:
            with wrapper.wrap_database_errors:
                driver.commit()
                driver.close()
                driver.execute("SELECT 1")  # which raises what a lost connection raises

        monkeypatch.setattr(wrapper, "_commit", commit)
    assert (notes(), state(app)) == (["order"], State.COMMITTED)
    wrapper.run_and_clear_commit_hooks()
    assert called == ["back"]


def test_a_task_of_a_worker_whose_connection_is_killed_is_done_once(
    app: DjangoQueue, on_sqlite: bool
) -> None:
    if on_sqlite:
        pytest.skip("a file does not go away")
    app.register_declared()
    gate = tasks.gates["killed"] = tasks.Gate()
    result = tasks.wait_inside.enqueue("killed")
    with app.worker(concurrency=1, poll_s=0.05):
        assert gate.reached.wait(BOUND_S)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 60000)", [int(tasks.heard[0])])
        gate.opened.set()
        finished(result)
    assert notes() == ["killed"]
    assert (result.status, result.attempts) == (TaskResultStatus.SUCCESSFUL, 2)


def test_a_worker_leaves_no_connection_of_djangos_open(app: DjangoQueue, on_sqlite: bool) -> None:
    """As after a request: CONN_MAX_AGE says how long one may be kept."""
    if on_sqlite:
        pytest.skip("there is no list of those who have a file open")
    app.register_declared()
    gate = tasks.gates["open"] = tasks.Gate()
    gate.reached.set()
    with app.worker(concurrency=1, poll_s=0.05):
        finished(tasks.wait_inside.enqueue("open"))
        wait_for(lambda: not is_open(int(tasks.heard[0])), "its connection to be closed")


def is_open(pid: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid])
        return cursor.fetchone() is not None

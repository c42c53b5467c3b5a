"""A task is enqueued in the current transaction of Django's connection."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.transaction import TransactionManagementError
from django.tasks import TaskResultStatus, task_backends
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist, TaskResultMismatch
from django.tasks.signals import task_enqueued
from django.utils import timezone

from jobq import InvalidArguments, NotMigrated
from jobq.django.queue import DjangoQueue
from tests.django.inside.books.models import Entry
from tests.django.inside.books.tasks import charge, charge_elsewhere, fail, tell
from tests.django.inside.conftest import jobs, notes


class Refused(Exception):
    pass


def seen_by_others() -> int:
    """How many jobs another connection sees; on SQLite one that takes no lock."""
    other = connection.copy()
    with closing(other), other.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM {'jobq_' if other.vendor == 'sqlite' else 'jobq.'}jobs"
        )
        return int(cursor.fetchone()[0])


def test_a_job_commits_with_the_transaction_it_was_enqueued_in(app: DjangoQueue) -> None:
    with transaction.atomic():
        Entry.objects.create(note="order")
        result = charge.enqueue("order")
        assert seen_by_others() == 0
        result.refresh()
        assert result.status == TaskResultStatus.READY, "and its own transaction does"

    (job,) = jobs(app)
    assert str(job.id) == result.id
    assert notes() == ["order"]


def test_a_job_is_rolled_back_with_the_transaction_it_was_enqueued_in(app: DjangoQueue) -> None:
    with pytest.raises(Refused), transaction.atomic():
        Entry.objects.create(note="order")
        result = charge.enqueue("order")
        raise Refused

    assert jobs(app) == []
    assert notes() == []
    with pytest.raises(TaskResultDoesNotExist):
        charge.get_result(result.id)


def test_a_savepoint_that_is_rolled_back_takes_its_jobs_with_it(app: DjangoQueue) -> None:
    with transaction.atomic():
        kept = charge.enqueue("kept")
        with pytest.raises(Refused), transaction.atomic():
            charge.enqueue("dropped")
            raise Refused

    assert [str(job.id) for job in jobs(app)] == [kept.id]


def test_in_autocommit_mode_a_job_is_there_at_once(app: DjangoQueue) -> None:
    result = charge.enqueue(note="order")

    (job,) = jobs(app)
    assert str(job.id) == result.id
    assert job.task == "tests.django.inside.books.tasks.charge"
    assert json.loads(job.args) == {"args": [], "kwargs": {"note": "order"}}
    assert not connection.in_atomic_block


def test_a_broken_transaction_takes_no_job(app: DjangoQueue) -> None:
    with pytest.raises(Refused), transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(TransactionManagementError):
            charge.enqueue("order")
        raise Refused

    assert jobs(app) == []


def test_what_using_says_is_what_the_job_has(app: DjangoQueue) -> None:
    due_at = timezone.now() + timedelta(hours=1)
    chosen = charge.using(priority=7, queue_name="default", run_after=due_at)
    result = chosen.enqueue("later")
    charge.enqueue("now")

    later, now = jobs(app)
    assert (later.queue, later.priority, now.queue, now.priority) == ("default", -7, "billing", 0)
    status = app.status(later.id)
    assert abs((status.due_at or due_at) - due_at) < timedelta(milliseconds=2)
    assert status.state == "scheduled"
    assert app.status(now.id).state == "ready"
    found = charge.get_result(result.id)
    assert (found.task.priority, found.task.queue_name) == (7, "default")
    assert found.task.func is charge.func
    assert found.status == TaskResultStatus.READY


def test_options_of_all_tasks_and_of_one(app: DjangoQueue) -> None:
    charge.enqueue("x")
    assert app.status(jobs(app)[0].id).max_attempts == 2
    assert app.options.of("tests.django.inside.books.tasks.once")["max_attempts"] == 1


def test_arguments_come_back_as_they_were_given(app: DjangoQueue) -> None:
    result = tell.enqueue([1, 2])
    assert (result.args, result.kwargs) == ([[1, 2]], {})
    found = tell.get_result(result.id)
    assert (found.args, found.kwargs, found.backend) == ([[1, 2]], {}, "default")
    assert found.enqueued_at <= result.enqueued_at, "both by the database's clock"
    assert (found.started_at, found.finished_at, found.worker_ids) == (None, None, [])


def test_what_is_not_json_is_refused_as_django_refuses_it(app: DjangoQueue) -> None:
    with pytest.raises(TypeError, match="Unsupported type"):
        charge.enqueue(object())
    with pytest.raises(TypeError, match="unexpected keyword argument 'nope'"):
        charge.enqueue("x", nope="x")
    with pytest.raises(TypeError, match="missing a required argument"):
        charge.enqueue()
    with pytest.raises(InvalidArguments, match="NUL"):
        charge.enqueue("\0")
    with pytest.raises(InvalidTask, match="not valid for backend"):
        charge.using(queue_name="nowhere")
    assert jobs(app) == []


def test_the_signal_tells_of_a_job_that_has_its_id() -> None:
    told: list[Any] = []

    def hear(sender: type[Any], task_result: Any, **_: Any) -> None:
        told.append((sender, task_result.id, task_result.status))

    task_enqueued.connect(hear)
    try:
        result = charge.enqueue("order")
    finally:
        task_enqueued.disconnect(hear)
    assert told == [(type(task_backends["default"]), result.id, TaskResultStatus.READY)]


def test_async_callers_enqueue_and_look() -> None:
    async def call() -> Any:
        result = await charge.aenqueue("order")
        return await charge.aget_result(result.id)

    found = asyncio.run(call())
    assert found.args == ["order"]


@pytest.mark.parametrize("result_id", ["", "abc", "-1", "999999", "9" * 40, "²"])
def test_a_result_that_does_not_exist(result_id: str) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        charge.get_result(result_id)


def test_a_result_of_another_task() -> None:
    result = fail.enqueue("x")
    with pytest.raises(TaskResultMismatch):
        charge.get_result(result.id)


def test_a_backend_enqueues_in_the_database_that_it_names(app: DjangoQueue) -> None:
    other = task_backends["elsewhere"].app
    with pytest.raises(Refused), transaction.atomic():
        charge_elsewhere.enqueue("elsewhere")
        raise Refused  # of the default database's transaction, which has nothing to do with it
    with pytest.raises(Refused), transaction.atomic(using="other"):
        charge_elsewhere.enqueue("dropped")
        raise Refused

    assert jobs(app) == []
    assert [json.loads(job.args)["args"] for job in jobs(other)] == [["elsewhere"]]


def test_without_tables_the_remedy_is_told(on_sqlite: bool) -> None:
    table = "jobq_jobs" if on_sqlite else "jobq.jobs"
    with pytest.raises(Refused), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} RENAME TO gone")
        with pytest.raises(NotMigrated, match="jobq upgrade"):
            charge.enqueue("order")
        raise Refused


def test_what_the_database_refuses_is_an_error_of_djangos(on_sqlite: bool) -> None:
    if on_sqlite:
        pytest.skip("PostgreSQL says this: a transaction that may only read")
    with pytest.raises(DatabaseError, match="read-only"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
        charge.enqueue("order")


def test_on_sqlite_looking_waits_for_no_writer(on_sqlite: bool) -> None:
    if not on_sqlite:
        pytest.skip("on PostgreSQL nobody who reads waits")
    result = charge.enqueue("order")
    writer = connection.copy()
    with closing(writer):
        writer.cursor().execute("BEGIN IMMEDIATE")
        result.refresh()
        writer.cursor().execute("ROLLBACK")
    assert result.status == TaskResultStatus.READY
    assert connection.transaction_mode == "IMMEDIATE"

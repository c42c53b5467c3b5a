"""Django's tasks run by a worker, their effects inside the transaction of the commit record."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.tasks import TaskResultStatus, task, task_backends
from django.tasks.signals import task_finished, task_started

from jobq.django.queue import DjangoQueue
from tests.django.inside.books import tasks
from tests.django.inside.books.models import Account, Entry
from tests.django.inside.conftest import finished, notes, wait_for


@pytest.fixture(scope="session")
def documented() -> dict[str, Any]:
    """What the page on integrations has for Django, as it stands there."""
    page = (Path(__file__).parents[3] / "docs/integrations.md").read_text()
    blocks = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    objects = SimpleNamespace(
        create=lambda month, found: Entry.objects.create(note=f"{month}: {found}")
    )
    names = {
        "__name__": tasks.__name__,
        "task": task,
        "computed": lambda month: len(month),
        "Report": SimpleNamespace(objects=objects),
    }
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/integrations.md", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _worker(app: DjangoQueue, documented: dict[str, Any]) -> Iterator[None]:
    app.register_declared()
    with app.worker(concurrency=2, poll_s=0.05):
        yield


@contextmanager
def heard() -> Iterator[list[tuple[str, str, str]]]:
    """What the signals told: which, of which job, in which status."""
    told: list[tuple[str, str, str]] = []

    def start(sender: object, task_result: Any, **_: object) -> None:
        told.append(("started", task_result.id, str(task_result.status)))

    def finish(sender: object, task_result: Any, **_: object) -> None:
        told.append(("finished", task_result.id, str(task_result.status)))

    task_started.connect(start)
    task_finished.connect(finish)
    try:
        yield told
    finally:
        task_started.disconnect(start)
        task_finished.disconnect(finish)


def test_a_task_is_run_once_and_its_result_kept() -> None:
    with heard() as told:
        result = finished(tasks.charge.enqueue("order"))
        wait_for(lambda: len(told) == 2, "both signals")

    assert result.status == TaskResultStatus.SUCCESSFUL
    assert isinstance(result.return_value, int)
    assert notes() == ["order"]
    assert (result.attempts, len(result.worker_ids), result.errors) == (1, 1, [])
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert result.last_attempted_at == result.started_at
    assert told == [
        ("started", result.id, "RUNNING"),
        ("finished", result.id, "SUCCESSFUL"),
    ]


def test_a_task_that_takes_its_context(app: DjangoQueue) -> None:
    result = finished(tasks.tell.enqueue(what=[1, 2]))

    key = str(app.status(int(result.id)).idempotency_key)
    assert result.return_value == {"attempt": 1, "what": [1, 2], "key": key}
    assert notes() == [result.id]


def test_an_async_task_writes_inside_the_effect() -> None:
    assert finished(tasks.charge_async.enqueue("order")).return_value == "order"
    failed = finished(tasks.charge_async.enqueue("none", fails=True))

    assert failed.status == TaskResultStatus.FAILED
    assert notes() == ["order"]


def test_a_task_that_fails_is_tried_again_and_changes_nothing() -> None:
    with heard() as told:
        result = finished(tasks.fail.enqueue("order"))
        wait_for(lambda: len(told) == 3, "the signals of two attempts")

    assert result.status == TaskResultStatus.FAILED
    assert result.attempts == 2
    assert [error.exception_class for error in result.errors] == [ValueError, ValueError]
    assert "no order" in result.errors[0].traceback
    assert "effect.py" not in result.errors[0].traceback, "it begins where the task does"
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value
    assert notes() == []
    assert tasks.heard == [], "nothing was committed, so nothing is called back"
    assert [what for what, _, _ in told] == ["started", "started", "finished"]
    assert told[-1][2] == "FAILED"


def test_a_task_with_options_of_its_own() -> None:
    result = finished(tasks.once.enqueue("x"))
    assert result.attempts == 1
    assert result.errors[0].exception_class is LookupError


def test_a_task_that_swallows_an_error_of_the_database_does_not_commit() -> None:
    Account.objects.create(name="taken")
    result = finished(tasks.swallow.enqueue("taken"))

    assert result.status == TaskResultStatus.FAILED
    assert result.errors[0].exception_class_path == "jobq.EffectRolledBack"
    assert result.errors[0].exception_class.__name__ == "EffectRolledBack"
    assert notes() == []


def test_an_error_that_a_cursor_raised_is_not_swallowed_either(on_sqlite: bool) -> None:
    """On SQLite a statement that fails has done nothing, and its transaction is whole."""
    result = finished(tasks.swallow_driver_error.enqueue())

    if on_sqlite:
        assert result.status == TaskResultStatus.SUCCESSFUL
        assert notes() == ["before"]
    else:
        assert result.errors[0].exception_class_path == "jobq.EffectRolledBack"
        assert notes() == []


def test_an_error_confined_to_an_atomic_block_of_its_own() -> None:
    Account.objects.create(name="taken")
    result = finished(tasks.confine.enqueue("taken"))

    assert result.status == TaskResultStatus.SUCCESSFUL
    assert notes() == ["beside it"]


def test_callbacks_run_after_the_commit() -> None:
    finished(tasks.call_back.enqueue("order"))

    wait_for(lambda: len(tasks.heard) == 2, "the callback")
    assert tasks.heard == ["before", "order: 1"]


def test_a_callback_that_fails_undoes_nothing() -> None:
    with heard() as told:
        result = finished(tasks.call_back.enqueue("order", fails=True))
        wait_for(lambda: len(told) == 2, "both signals")

    assert told[-1] == ("finished", result.id, "SUCCESSFUL")
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert (result.attempts, result.errors) == (1, [])
    assert notes() == ["order"]


def test_a_durable_block_of_the_tasks_own_is_refused() -> None:
    result = finished(tasks.be_durable.enqueue())

    assert "durable atomic block cannot be nested" in result.errors[0].traceback
    assert notes() == []


def test_a_result_that_json_cannot_hold_fails_before_the_commit() -> None:
    result = finished(tasks.return_an_object.enqueue())

    assert result.errors[0].exception_class is TypeError
    assert notes() == []


def test_the_examples_of_the_docs(documented: dict[str, Any]) -> None:
    assert documented["TASKS"]["default"]["BACKEND"] == "jobq.django.JobqBackend"
    assert documented["INSTALLED_APPS"][0] == "jobq.django"
    assert set(documented["TASKS"]["default"]["QUEUES"]) == task_backends["default"].queues

    result = finished(documented["report"].enqueue("May"))
    assert (notes(), result.status) == (["May: 3"], TaskResultStatus.SUCCESSFUL)

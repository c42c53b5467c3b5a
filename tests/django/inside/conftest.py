"""Django set up for the run's databases, and empty tables for each test."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import django
import pytest

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.django.inside.settings"
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.tasks import TaskResult, task_backends  # noqa: E402

from jobq.django.queue import DjangoQueue  # noqa: E402
from jobq.models import metadata_for  # noqa: E402
from tests.django.inside.books import tasks  # noqa: E402
from tests.django.inside.books.models import Account, Entry  # noqa: E402

BOUND_S = 90.0


@pytest.fixture(scope="session", autouse=True)
def _tables() -> Iterator[None]:
    for alias in connections:
        call_command("migrate", database=alias, run_syncdb=True, verbosity=0)
    yield
    for alias in task_backends:
        task_backends[alias].app.close()
    connections.close_all()


@pytest.fixture(autouse=True)
def _emptied(_tables: None) -> None:
    tasks.gates.clear()
    tasks.heard.clear()
    for alias in connections:
        for model in (Entry, Account):
            model.objects.using(alias).all().delete()
        vendor = connections[alias].vendor
        with connections[alias].cursor() as cursor:
            for table in metadata_for(vendor, "jobq").sorted_tables:
                cursor.execute(f"DELETE FROM {table.fullname}")


@pytest.fixture
def app(_tables: None) -> DjangoQueue:
    app: DjangoQueue = task_backends["default"].app
    return app


@pytest.fixture
def on_sqlite() -> bool:
    return bool(connections["default"].vendor == "sqlite")


def wait_for(is_so: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + BOUND_S
    while not is_so():
        if time.monotonic() > deadline_s:
            pytest.fail(f"waited {BOUND_S:g} s for {what}")
        time.sleep(0.02)


def finished(result: TaskResult) -> TaskResult:
    """The result, once its task has finished."""

    def is_finished() -> bool:
        result.refresh()
        return bool(result.is_finished)

    wait_for(is_finished, f"{result.task.module_path} {result.id} to finish")
    return result


def notes(alias: str = "default") -> list[str]:
    return sorted(Entry.objects.using(alias).values_list("note", flat=True))


def jobs(app: DjangoQueue) -> list[Any]:
    """All jobs, by a connection that is not Django's, the oldest first."""
    return list(reversed(app.jobs.list().jobs))

"""What `manage.py check` says of settings that are wrong, and how to put them right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.core.checks import CheckMessage
from django.db import connections
from django.tasks import task_backends
from django.test import override_settings

from jobq import InvalidOption, Limit
from jobq.django.apps import make_tables
from tests.django.inside.books.tasks import charge_elsewhere
from tests.django.inside.settings import BACKEND, TASKS


def found(**options: Any) -> dict[str, CheckMessage]:
    """The messages for a backend with these options, by their ids."""
    backend = {"BACKEND": BACKEND, "QUEUES": [], "OPTIONS": {"DATABASE": "other", **options}}
    with override_settings(TASKS={**TASKS, "checked": backend}):
        return {str(one.id): one for one in task_backends["checked"].check()}


@pytest.fixture
def other() -> Iterator[dict[str, Any]]:
    """What is set of the second database, to be changed."""
    settings = connections["other"].settings_dict
    before = {**settings, "OPTIONS": dict(settings["OPTIONS"])}
    connections["other"].close()
    yield settings
    settings.update(before)


def test_right_settings() -> None:
    assert found() == {}
    assert list(task_backends["elsewhere"].check()) == []


def test_options_that_there_are_not() -> None:
    said = found(MAX_ATEMPTS=3)["jobq.E001"]
    assert "MAX_ATEMPTS" in said.msg
    assert "MAX_ATTEMPTS" in said.msg
    assert "NICE" in found(TASKS={"a.b": {"NICE": 1}})["jobq.E001"].msg
    assert "write a dict" in found(TASKS={"a.b": 3})["jobq.E001"].msg
    assert "schema" in found(SCHEMA="no such; name")["jobq.E001"].msg


def test_a_database_that_there_is_not() -> None:
    assert "default, other" in str(found(DATABASE="nope")["jobq.E002"].hint)


def test_a_database_that_jobq_does_not_speak_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections["other"], "vendor", "mysql")
    assert "PostgreSQL through psycopg 3" in found()["jobq.E003"].msg


def test_without_autocommit(other: dict[str, Any]) -> None:
    other["AUTOCOMMIT"] = False
    assert "AUTOCOMMIT" in str(found()["jobq.E004"].hint)


def test_options_of_tasks_that_cannot_be() -> None:
    name = "tests.django.inside.books.tasks.charge_elsewhere"
    with override_settings(
        TASKS={
            "elsewhere": {
                "BACKEND": BACKEND,
                "OPTIONS": {"DATABASE": "other", "TASKS": {name: {"MAX_ATTEMPTS": 0}}},
            }
        }
    ):
        assert [one.id for one in task_backends["elsewhere"].check()] == ["jobq.E005"]
        with pytest.raises(InvalidOption, match="max_attempts"):
            charge_elsewhere.enqueue("x")


def test_options_of_a_task_that_there_is_not() -> None:
    assert "no such task" in found(TASKS={"shop.tasks.chrage": {}})["jobq.W004"].msg


def test_without_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apps, "is_installed", lambda name: False)
    assert "INSTALLED_APPS" in str(found()["jobq.W001"].hint)


def test_sqlite_without_the_write_lock(other: dict[str, Any]) -> None:
    other["OPTIONS"].pop("transaction_mode")
    assert "IMMEDIATE" in str(found()["jobq.W003"].hint)


def test_sqlite_in_memory_is_for_tests_that_enqueue(other: dict[str, Any]) -> None:
    """As Django's test runner makes it."""
    other["NAME"] = "file:memorydb_other?mode=memory&cache=shared"
    assert list(found()) == ["jobq.W002"]
    app = task_backends["elsewhere"].app
    make_tables(app)
    make_tables(app)
    result = charge_elsewhere.enqueue("order")
    assert charge_elsewhere.get_result(result.id).args == ["order"]
    connection = connections["other"]
    connection.connection.close()
    del connections["other"]


def test_limits_and_the_like_are_jobqs_own() -> None:
    limited = {"MAX_ATTEMPTS": 3, "LIMITS": [Limit("one at a time", concurrency=1)]}
    assert found(**limited) == {}

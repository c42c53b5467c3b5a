"""Django's system checks of a backend: each says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.db import connections

from jobq.django.connection import backend_of, url_of
from jobq.errors import InvalidDatabaseURL, JobqError, UnsupportedConnection

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from jobq.django.backend import JobqBackend
    from jobq.django.queue import DjangoQueue


def check_backend(backend: JobqBackend) -> Iterator[CheckMessage]:
    """Nothing connects to a database."""
    where = f"TASKS[{backend.alias!r}]"
    try:
        app = backend.app
    except JobqError as error:
        yield Error(str(error), obj=where, id="jobq.E001")
        return
    alias = app.options.database
    if alias not in connections:
        yield Error(
            f"OPTIONS['DATABASE'] is {alias!r}, and DATABASES has no such alias.",
            hint=f"Name one of {', '.join(connections)}.",
            obj=where,
            id="jobq.E002",
        )
        return
    if not apps.is_installed("jobq.django"):
        yield CheckWarning(
            "'jobq.django' is not in INSTALLED_APPS: `manage.py migrate` does not make jobq's "
            "tables, and there is no `manage.py jobq_worker`.",
            hint="Add 'jobq.django' to INSTALLED_APPS.",
            obj=where,
            id="jobq.W001",
        )
    yield from _check_connection(where, connections[alias])
    yield from _check_tasks(where, app)


def _check_connection(where: str, connection: BaseDatabaseWrapper) -> Iterator[CheckMessage]:
    try:
        backend_of(connection)
        url_of(connection)
    except UnsupportedConnection as error:
        yield Error(str(error), obj=where, id="jobq.E003")
        return
    except InvalidDatabaseURL as error:
        # A warning: so it is under Django's own test runner, where tests that enqueue pass.
        yield CheckWarning(
            f"no worker can reach the database {connection.alias!r}: {error}.",
            hint="Give its NAME a path; for tests that run workers, its TEST['NAME'].",
            obj=where,
            id="jobq.W002",
        )
    if not connection.settings_dict["AUTOCOMMIT"]:
        yield Error(
            f"DATABASES[{connection.alias!r}] has AUTOCOMMIT False: a job's transaction is begun "
            "and committed by jobq.",
            hint="Leave AUTOCOMMIT out.",
            obj=where,
            id="jobq.E004",
        )
    if connection.vendor == "sqlite":
        mode = connection.settings_dict["OPTIONS"].get("transaction_mode")
        if str(mode).upper() not in ("IMMEDIATE", "EXCLUSIVE"):
            yield CheckWarning(
                f"DATABASES[{connection.alias!r}] begins its transactions without the write lock: "
                "one that reads and then enqueues fails with `database is locked` when another "
                "wrote meanwhile.",
                hint="Set its OPTIONS['transaction_mode'] to 'IMMEDIATE'.",
                obj=where,
                id="jobq.W003",
            )


def _check_tasks(where: str, app: DjangoQueue) -> Iterator[CheckMessage]:
    for name in app.options.named:
        if name not in app.declared:
            yield CheckWarning(
                f"OPTIONS['TASKS'] has options for {name!r}, and this backend has no such task.",
                hint="Write module and function, and have the module be an app's `tasks`.",
                obj=where,
                id="jobq.W004",
            )
    for declared in list(app.declared.values()):
        try:
            app.registered(declared)
        except (JobqError, TypeError, ValueError) as error:
            yield Error(f"task {declared.module_path!r}: {error}", obj=where, id="jobq.E005")

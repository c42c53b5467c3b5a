"""The Django app: finds tasks, and makes jobq's tables when Django makes its own."""

from __future__ import annotations

from django.apps import AppConfig
from django.db import connections
from django.db.models.signals import post_migrate
from django.tasks import task_backends
from django.utils.module_loading import autodiscover_modules
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from jobq.django.backend import JobqBackend
from jobq.django.queue import DjangoQueue
from jobq.models import metadata_for


class JobqConfig(AppConfig):
    name = "jobq.django"
    label = "jobq"
    verbose_name = "jobq"

    def ready(self) -> None:
        """A worker runs the tasks that it has, and imports nothing that a job names: so the `tasks`
        modules of all apps are imported, as the admin's are."""
        post_migrate.connect(_make_tables, sender=self)
        autodiscover_modules("tasks")


def _make_tables(*, using: str, **_: object) -> None:
    """After `manage.py migrate`, and for the test runner's databases."""
    for alias in task_backends:
        backend = task_backends[alias]
        if not isinstance(backend, JobqBackend):
            continue
        options = backend.app.options
        if options.database == using and options.migrates:
            make_tables(backend.app)


def make_tables(app: DjangoQueue) -> None:
    """Bring jobq's tables in the app's database to this version. Raises as `jobq.schema.upgrade`.

    In an SQLite database in memory, which tests use, only this connection sees them: nothing is
    kept there to be migrated later, and no worker comes.
    """
    connection = connections[app.options.database]
    if connection.vendor == "sqlite" and connection.is_in_memory_db():
        connection.ensure_connection()
        engine = create_engine(
            "sqlite://", creator=lambda: connection.connection, poolclass=StaticPool
        )
        metadata_for("sqlite", app.schema).create_all(engine)
        return
    from jobq import schema  # Alembic alone takes a second, and a worker needs none

    schema.upgrade(app.url, schema=app.schema)
    # An SQLite file is put into WAL mode by the first who opens it; later, one who writes would
    # have to be waited for.
    app.open_database(max_connections=1).check()

"""The `JobQueue` of a backend: one for each alias in `TASKS`, in all threads of a process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from django.core.signals import setting_changed
from django.db import connections
from sqlalchemy.engine import URL

from jobq.client import JobQueue
from jobq.database.base import Database
from jobq.database.open import check_schema_name
from jobq.django.connection import backend_of, url_of
from jobq.django.effect import DjangoPostgres, DjangoSqlite
from jobq.django.options import BackendOptions
from jobq.store import PostgresStore, SqliteStore
from jobq.store.base import Store
from jobq.task import Task

if TYPE_CHECKING:
    from django.tasks import Task as DjangoTask

_lock = threading.RLock()
_queues: dict[str, DjangoQueue] = {}
_tasks: dict[str, dict[str, DjangoTask]] = {}
"""What was declared with `@task`, by backend and by the path of its function."""


class DjangoQueue(JobQueue):
    """The queue in one of Django's databases; its tasks are those of `django.tasks`."""

    def __init__(
        self,
        alias: str,
        options: BackendOptions,
        run: Callable[[DjangoQueue, DjangoTask], Callable[..., Any]],
    ) -> None:
        """`run`: makes the handler of a task."""
        super().__init__(schema=options.schema, pooled=options.is_pooled)
        check_schema_name(self.schema)
        self.alias = alias
        self.options = options
        self._run = run

    @property
    def url(self) -> URL:
        """Where Django's connection leads now: its test runner changes that."""
        return url_of(connections[self.options.database])

    def open_database(
        self, *, max_connections: int, idle_in_transaction_s: float | None = None
    ) -> Database:
        alias, url = self.options.database, self.url
        if backend_of(connections[alias]) == "sqlite":
            return DjangoSqlite(url, alias, max_connections=max_connections)
        return DjangoPostgres(
            url,
            alias,
            schema=self.schema,
            max_connections=max_connections,
            idle_in_transaction_s=idle_in_transaction_s,
            is_pooled=self._is_pooled,
        )

    @property
    def _store(self) -> Store:
        """Enqueueing and looking happen on Django's connection, and need none of jobq's."""
        on_sqlite = backend_of(connections[self.options.database]) == "sqlite"
        return SqliteStore() if on_sqlite else PostgresStore(self.schema)

    @property
    def store(self) -> Store:
        return self._store

    @property
    def declared(self) -> Mapping[str, DjangoTask]:
        """The tasks of this backend whose modules are imported."""
        return _tasks.get(self.alias, {})

    def registered(self, declared: DjangoTask) -> Task[..., Any]:
        """Return jobq's task of one of Django's. Raises InvalidTask or InvalidOption."""
        name = declared.module_path
        with _lock:
            if (known := self.tasks.get(name)) is not None:
                return known
            function = self._run(self, declared)
            task: Task[..., Any] = self.task(name=name, **self.options.of(name))(function)
            # For tracebacks, which begin where the task does; set now, not to be read as its
            # signature.
            function.__wrapped__ = declared.func  # type: ignore[attr-defined]
            return task

    def register_declared(self) -> None:
        """For a worker: have all of them."""
        for declared in list(self.declared.values()):
            self.registered(declared)


def declare(alias: str, task: DjangoTask) -> None:
    """Take note of a task. `using()` makes further ones of the same function."""
    with _lock:
        known = _tasks.setdefault(alias, {})
        if task.module_path not in known or known[task.module_path].func is not task.func:
            known[task.module_path] = task


def queue_of(alias: str, make: Callable[[], DjangoQueue]) -> DjangoQueue:
    """Return the queue of a backend, made when it is first asked for."""
    with _lock:
        if alias not in _queues:
            _queues[alias] = make()
        return _queues[alias]


def _forget(*, setting: str, **_: object) -> None:
    """As Django forgets the backends themselves, when a test changes the settings."""
    if setting in ("TASKS", "DATABASES"):
        with _lock:
            for queue in _queues.values():
                queue.close()
            _queues.clear()


setting_changed.connect(_forget)

"""What `OPTIONS` of a backend may say."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from django.db import DEFAULT_DB_ALIAS

from jobq.client import JobQueue
from jobq.errors import InvalidOption

OF_TASKS = {
    "MAX_ATTEMPTS": "max_attempts",
    "RETRY": "retry",
    "TIMEOUT_S": "timeout_s",
    "KEEP": "keep",
    "LIMITS": "limits",
    "BREAKER": "breaker",
}
"""Options of all tasks, or of one; and what `JobQueue.task` calls them."""
COMMITS_ITSELF = "COMMITS_ITSELF"
"""The task opens its commit boundary itself, when it has computed what to write."""
OF_ONE_TASK = {*OF_TASKS, COMMITS_ITSELF}
OF_BACKEND = {"DATABASE", "SCHEMA", "POOLED", "MIGRATE", "TASKS", *OF_TASKS}

assert set(OF_TASKS.values()) <= set(inspect.signature(JobQueue.task).parameters)


class BackendOptions:
    """The options of one backend. Raises InvalidOption for one that there is not."""

    def __init__(self, alias: str, given: Mapping[str, Any]) -> None:
        self._where = f"TASKS[{alias!r}]['OPTIONS']"
        _check_names(self._where, given, OF_BACKEND)
        self.database: str = given.get("DATABASE", DEFAULT_DB_ALIAS)
        """The alias of the database whose transactions jobs are enqueued and run in."""
        self.schema: str | None = given.get("SCHEMA")
        self.is_pooled = bool(given.get("POOLED", False))
        self.migrates = bool(given.get("MIGRATE", True))
        """Whether `manage.py migrate` makes jobq's tables."""
        self._of_all = {name: value for name, value in given.items() if name in OF_TASKS}
        self._of_one: Mapping[str, Mapping[str, Any]] = given.get("TASKS", {})
        for task, options in self._of_one.items():
            _check_names(f"{self._where}['TASKS'][{task!r}]", options, OF_ONE_TASK)

    @property
    def named(self) -> list[str]:
        """The tasks that have options of their own."""
        return list(self._of_one)

    def of(self, task: str) -> dict[str, Any]:
        """Return a task's options as `JobQueue.task` takes them."""
        said = {**self._of_all, **self._of_one.get(task, {})}
        return {OF_TASKS[name]: value for name, value in said.items() if name in OF_TASKS}

    def commits_itself(self, task: str) -> bool:
        return bool(self._of_one.get(task, {}).get(COMMITS_ITSELF, False))


def _check_names(where: str, given: object, known: set[str]) -> None:
    if not isinstance(given, Mapping):
        raise InvalidOption(f"{where} is a {type(given).__qualname__}: write a dict")
    unknown = sorted(str(name) for name in given if name not in known)
    if unknown:
        raise InvalidOption(
            f"{where} has {', '.join(unknown)}, which jobq does not know: use "
            f"{', '.join(sorted(known))}"
        )

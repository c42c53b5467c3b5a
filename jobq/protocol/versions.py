"""Versions of a task: what its jobs are stored as, and how older ones are read. Pure.

The version is part of the name that a job is stored under, so a worker claims what it can read and
leaves newer jobs to newer workers, as it leaves tasks that it does not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from jobq.errors import InvalidOption, InvalidTask, UnreadableArguments

Upgrade = Callable[[int, dict[str, Any]], dict[str, Any]]
"""Makes the arguments of a version (from 1), as JSON has them, into those of the next."""

_STORED = re.compile(r"(?P<name>.*)@(?P<version>[0-9]+)", re.DOTALL)


def stored_as(task: str, version: int) -> str:
    """Return the name under which jobs of this version are stored: the first has the bare name."""
    return task if version == 1 else f"{task}@{version}"


def read_stored(stored: str) -> tuple[str, int]:
    """Return the task and the version of a stored name."""
    found = _STORED.fullmatch(stored)
    return (stored, 1) if found is None else (found["name"], int(found["version"]))


def check_version(task: str, version: int, upgrade: Upgrade | None) -> None:
    """Raises InvalidTask or InvalidOption."""
    if read_stored(task) != (task, 1):
        raise InvalidTask(
            f"task {task!r}: a name does not end in @ and a number, which says a version: use "
            "@app.task(version=...)"
        )
    if version < 1:
        raise InvalidOption(f"task {task!r}: version is {version}: versions count from 1")
    if (version > 1) is not (upgrade is not None):
        raise InvalidOption(
            f"task {task!r}: version={version} and upgrade={upgrade!r}: from version 2 on a task "
            "has a function that brings older arguments up to date, and before that it has none"
        )


def upgraded(task: str, version: int, to: int, arguments: str, upgrade: Upgrade) -> str:
    """Return a job's arguments, as JSON, brought from its version to the current one.

    Raises UnreadableArguments when the function fails or returns anything but a dict.
    """
    try:
        given: Any = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise UnreadableArguments(
            f"task {task!r}: the stored arguments are not JSON ({error})"
        ) from error
    for older in range(version, to):
        try:
            given = upgrade(older, given)
        except Exception as error:
            raise UnreadableArguments(
                f"task {task!r}: its upgrade function failed on arguments of version {older} "
                f"({type(error).__name__}: {error})"
            ) from error
        if not isinstance(given, dict):
            raise UnreadableArguments(
                f"task {task!r}: its upgrade function returned {type(given).__qualname__} for "
                f"version {older}: return the arguments as a dict"
            )
    try:
        return json.dumps(given)
    except (TypeError, ValueError) as error:
        raise UnreadableArguments(
            f"task {task!r}: its upgrade function returned what JSON cannot hold ({error})"
        ) from error

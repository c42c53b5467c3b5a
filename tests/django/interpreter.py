"""A Python that Django 6 can be installed for; the tests' own may be older."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

OLDEST = (3, 12)
NEWEST = (3, 14)
BOUND_S = 30.0


def find_interpreter() -> str | None:
    """Return the path of the oldest that runs. Of those that are found some may not: pyenv leaves
    its shims of all versions on PATH, whichever it is told to use."""
    found: dict[tuple[int, int], str] = {}
    for candidate in _candidates():
        version = _version(candidate)
        if version is not None and OLDEST <= version <= NEWEST:
            found.setdefault(version, candidate)
            if version == OLDEST:
                break
    return found[min(found)] if found else None


def _candidates() -> Iterator[str]:
    names = [f"python3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    for name in [*names, "python3"]:
        for folder in folders:
            if (path := shutil.which(name, path=folder)) is not None:
                yield path
    if root := _told("pyenv", "root"):
        yield from map(str, sorted(Path(root.strip()).glob("versions/*/bin/python3")))
    # uv's own, wherever it keeps them.
    uv = os.environ.get("UV", "uv")
    if listed := _told(uv, "python", "list", "--only-installed", "--output-format", "json"):
        yield from (one["path"] for one in json.loads(listed) if one.get("path"))


def _version(python: str) -> tuple[int, int] | None:
    """As the interpreter says it itself; None when it does not run."""
    said = _told(python, "-c", "import sys; print(*sys.version_info[:2])")
    try:
        major, minor = map(int, (said or "").split())
    except ValueError:
        return None
    return major, minor


def _told(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None

"""The virtual environment of each queue, made by uv from the pinned versions beside this module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE / ".environments"
PYTHON = {"oban": "3.12"}
"""Where the repository's own Python is too old. The others are run by the same one."""


class NotInstalled(Exception):
    """The environment could not be made; the message is uv's."""


def interpreter(name: str) -> str:
    """Return the Python that has this queue installed. Raises NotInstalled."""
    if name == "jobq":
        return sys.executable
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    if not python.exists():
        # Not sys.executable: an environment of an environment would share its packages.
        base = getattr(sys, "_base_executable", sys.executable)
        wanted = PYTHON.get(name, base)
        _uv("venv", "--clear", "--no-python-downloads", "--python", wanted, str(folder))
    requirements = HERE / "requirements" / f"{name}.txt"
    _uv("pip", "sync", "--python", str(python), str(requirements))
    return str(python)


def _uv(*arguments: str) -> None:
    uv = os.environ.get("UV", "uv")  # uv names itself to what it runs
    try:
        done = subprocess.run([uv, "--quiet", *arguments], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NotInstalled(f"uv is not installed: {error}") from error
    if done.returncode:
        raise NotInstalled(" ".join(done.stderr.split()))

"""jobq in Django, run where Django can be installed: by a Python of its own, in an environment
that uv makes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.django.interpreter import find_interpreter

ROOT = Path(__file__).parents[2]
INSIDE = Path(__file__).parent / "inside"
ENVIRONMENT = Path(__file__).parent / ".environment"
"""Kept: to make it takes longer than many a test."""
ALL_OF_IT_S = 1_200
SHOP = INSIDE / "test_shop.py"


@pytest.fixture(scope="session")
def python() -> str:
    found = find_interpreter()
    if found is None:
        pytest.skip("there is no Python 3.12 or newer, which Django 6 needs")
    packages = ["--no-default-groups", "--group", "django", "--extra", "django"]
    done = subprocess.run(
        [
            os.environ.get("UV", "uv"),  # uv names itself to what it runs
            *["sync", "--quiet", "--locked", "--python", found, "--no-python-downloads", *packages],
        ],
        cwd=ROOT,
        env=os.environ | {"UV_PROJECT_ENVIRONMENT": str(ENVIRONMENT)},
        capture_output=True,
        text=True,
        timeout=ALL_OF_IT_S,
    )
    assert done.returncode == 0, done.stderr
    return str(ENVIRONMENT / "bin" / "python")


@pytest.mark.timeout(ALL_OF_IT_S)
def test_in_django(database_url: str, python: str, tmp_path: Path) -> None:
    """In one process: to start Django takes longer than most of the tests."""
    modules = sorted(set(INSIDE.glob("test_*.py")) - {SHOP})
    assert len(modules) > 3
    _run(modules, database_url, python, tmp_path)


@pytest.mark.timeout(ALL_OF_IT_S)
def test_the_example(empty_postgres_url: str, python: str, tmp_path: Path) -> None:
    """Its migrations make the tables."""
    _run([SHOP], empty_postgres_url, python, tmp_path)


def _run(modules: Sequence[Path], url: str, python: str, tmp_path: Path) -> None:
    where = ["-c", str(INSIDE / "pytest.ini"), f"--confcutdir={INSIDE}", f"--rootdir={ROOT}"]
    done = subprocess.run(
        [python, "-m", "pytest", *where, *map(str, modules)],
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if name[:6] != "PYTEST"},
            "JOBQ_TEST_DJANGO_URL": url,
            "JOBQ_TEST_DJANGO_OTHER_URL": f"sqlite:///{tmp_path / 'other.db'}",
        },
        capture_output=True,
        text=True,
        timeout=ALL_OF_IT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr

"""jobq in Django, run where Django can be installed: by a Python of its own, in an environment
that uv makes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.django.interpreter import find_interpreter

ROOT = Path(__file__).parents[2]
INSIDE = Path(__file__).parent / "inside"
ENVIRONMENT = Path(__file__).parent / ".environment"
"""Kept: to make it takes longer than many a test."""
ALL_OF_IT_S = 1_200
SHOP = "test_shop"


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


@pytest.fixture(params=["postgresql", "sqlite"])
def url(request: pytest.FixtureRequest, module: str) -> str:
    """Of the run's database."""
    fixture = "postgres_url" if request.param == "postgresql" else "sqlite_url"
    return str(request.getfixturevalue(fixture))


@pytest.mark.timeout(ALL_OF_IT_S)
@pytest.mark.parametrize(
    "module", sorted({path.stem for path in INSIDE.glob("test_*.py")} - {SHOP})
)
def test_in_django(module: str, url: str, python: str, tmp_path: Path) -> None:
    _run(module, url, python, tmp_path)


@pytest.mark.timeout(ALL_OF_IT_S)
def test_the_example(empty_postgres_url: str, python: str, tmp_path: Path) -> None:
    """Its migrations make the tables."""
    _run(SHOP, empty_postgres_url, python, tmp_path)


def _run(module: str, url: str, python: str, tmp_path: Path) -> None:
    where = ["-c", str(INSIDE / "pytest.ini"), f"--confcutdir={INSIDE}", f"--rootdir={ROOT}"]
    done = subprocess.run(
        [python, "-m", "pytest", *where, str(INSIDE / f"{module}.py")],
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

"""Of the Pythons that are found, one that runs is taken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.django import interpreter
from tests.django.interpreter import find_interpreter


def put(folder: Path, name: str, script: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH of the test's own, on which there is nothing yet."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("UV", str(tmp_path / "no-uv"))
    return tmp_path / "bin"


def test_a_shim_that_does_not_run_is_passed_over(path: Path) -> None:
    put(path, "python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    put(path, "python3.13", "echo 3 13")
    assert find_interpreter() == str(path / "python3.13")


def test_pyenv_is_asked_where_it_keeps_them(path: Path, tmp_path: Path) -> None:
    put(path, "python3.12", "exit 127")
    put(path, "pyenv", f"echo {tmp_path}")
    put(tmp_path / "versions/3.11.9/bin", "python3", "echo 3 11")
    kept = put(tmp_path / "versions/3.12.1/bin", "python3", "echo 3 12")
    assert find_interpreter() == kept


def test_uv_is_asked_too(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = put(tmp_path / "uv-python", "python3", "echo 3 14")
    listed = f'[{{"path": "{tmp_path}/gone"}}, {{"path": null}}, {{"path": "{kept}"}}]'
    monkeypatch.setenv("UV", put(tmp_path, "uv", f"echo '{listed}'"))
    assert find_interpreter() == kept


def test_without_any_there_is_none(path: Path) -> None:
    put(path, "python3", "echo 3 11")
    assert find_interpreter() is None


def test_one_that_hangs_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "BOUND_S", 0.5)
    put(path, "python3.12", "exec /bin/sleep 60")
    assert find_interpreter() is None


def test_the_version_is_the_interpreters_own_word() -> None:
    assert interpreter._version(sys.executable) == sys.version_info[:2]

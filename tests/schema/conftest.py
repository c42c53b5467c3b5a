"""Databases without jobq's tables, to migrate as a user does."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """An SQLite database of the test's own that does not exist yet."""
    return f"sqlite:///{tmp_path / 'empty.db'}"


@pytest.fixture(params=["postgresql", "sqlite"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """A database without jobq's tables, on each backend in turn."""
    fixture = {"postgresql": "empty_postgres_url", "sqlite": "empty_sqlite_url"}[request.param]
    url: str = request.getfixturevalue(fixture)
    return url

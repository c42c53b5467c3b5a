"""A scene for the tests that only look, and one of their own for those that change something."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Databases, url_of
from tests.dashboard.scene import Scene, make_scene


@pytest.fixture
def scene(database_url: str) -> Iterator[Scene]:
    made = make_scene(database_url)
    yield made
    made.app.close()


@pytest.fixture(scope="module", params=["postgresql", "sqlite"])
def still(
    request: pytest.FixtureRequest,
    databases: Databases,
    sqlite_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    """Of all tests of a module; nothing is to be changed in it."""
    if request.param == "sqlite":
        copy = tmp_path_factory.mktemp("scene") / "jobq.db"
        made = make_scene(f"sqlite:///{shutil.copyfile(sqlite_template, copy)}")
        yield made
        made.app.close()
        return
    name = databases.take()
    made = make_scene(url_of(name))
    yield made
    made.app.close()
    databases.drop(name)

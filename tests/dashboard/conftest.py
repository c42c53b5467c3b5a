"""One scene for the tests that look; those that act make their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dashboard.scene import Scene, make_scene


@pytest.fixture
def scene(database_url: str) -> Iterator[Scene]:
    made = make_scene(database_url)
    yield made
    made.app.close()

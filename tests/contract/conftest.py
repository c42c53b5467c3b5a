"""What every contract test ends with: the invariants, asked of the database it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobq.failure_modes.invariants import violations
from tests.shops import parties, postgres_shop, shop, sqlite_shop

SHOPS = ("shop", "postgres_shop", "sqlite_shop")


@pytest.fixture
def is_every_commit_charged() -> bool:
    """Whether every commit of a module's tests has an effect; such a module overrides this."""
    return False


@pytest.fixture(autouse=True)
def invariants_hold(
    request: pytest.FixtureRequest, is_every_commit_charged: bool
) -> Iterator[None]:
    shops = [request.getfixturevalue(name) for name in SHOPS if name in request.fixturenames]
    yield
    for one in shops:
        found = violations(one, is_every_commit_charged=is_every_commit_charged)
        assert not found, found


__all__ = ["parties", "postgres_shop", "shop", "sqlite_shop"]

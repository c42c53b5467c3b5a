"""What every contract test ends with: the invariants, asked of the database it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.transactions import Parties, parties_of
from tests.invariants import assert_invariants
from tests.shop import Shop, postgres_shop, shop, sqlite_shop

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
        assert_invariants(one, is_every_commit_charged=is_every_commit_charged)


@pytest.fixture
def parties(postgres_shop: Shop) -> Iterator[Parties]:
    """Open transactions on the PostgreSQL shop's database."""
    with parties_of(postgres_shop) as opened:
        yield opened


__all__ = ["postgres_shop", "shop", "sqlite_shop"]

"""The shop that tests drive by hand, on each backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobq import schema
from jobq.embedded import EmbeddedPostgres
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import Parties, parties_of


@pytest.fixture
def postgres_shop(postgres_url: str) -> Iterator[Shop]:
    with Shop.open(postgres_url) as shop:
        yield shop


@pytest.fixture
def sqlite_shop(sqlite_url: str) -> Iterator[Shop]:
    with Shop.open(sqlite_url) as shop:
        yield shop


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    """The shop on either backend."""
    with Shop.open(database_url) as shop:
        yield shop


@pytest.fixture
def server_shop(postgres_server: EmbeddedPostgres) -> Iterator[Shop]:
    """A shop on a PostgreSQL server of its own, to stop and to exhaust."""
    schema.upgrade(postgres_server.url())
    with Shop.open(postgres_server.url(), server=postgres_server) as shop:
        yield shop


@pytest.fixture
def parties(postgres_shop: Shop) -> Iterator[Parties]:
    """Open transactions on the PostgreSQL shop's database."""
    with parties_of(postgres_shop) as opened:
        yield opened

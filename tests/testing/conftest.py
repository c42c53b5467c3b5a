"""An app on each backend, with a ledger in its database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import BigInteger, Column, Engine, MetaData, Table, create_engine, select
from sqlalchemy.pool import NullPool

from jobq import JobQueue

metadata = MetaData()
ledger = Table("ledger", metadata, Column("order_id", BigInteger))


@dataclass(frozen=True)
class Books:
    engine: Engine

    def charged(self) -> list[int]:
        """The orders that were charged, once for each time."""
        with self.engine.connect() as connection:
            return sorted(connection.scalars(select(ledger.c.order_id)))


@pytest.fixture
def app(database_url: str) -> Iterator[JobQueue]:
    app = JobQueue(database_url)
    yield app
    app.close()


@pytest.fixture
def books(database_url: str) -> Iterator[Books]:
    engine = create_engine(database_url, poolclass=NullPool)
    metadata.create_all(engine)
    yield Books(engine)
    engine.dispose()

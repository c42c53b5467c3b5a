"""A store, and a queue on it, that lack one of the protocol's guards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import URL

from jobq.client import JobQueue
from jobq.database.base import Database
from jobq.store import Store

Weakening = Callable[[Store], Store]


def by(missing: type[Any]) -> Weakening:
    """Return what gives a store the steps of `missing`, on whichever backend it is."""

    def weaken(store: Store) -> Store:
        backend = type(store)
        weakened: Store = type(f"{missing.__name__}{backend.__name__}", (missing, backend), {})()
        weakened.__dict__.update(store.__dict__)  # its schema and shard
        return weakened

    return weaken


class WeakenedQueue(JobQueue):
    """A `JobQueue` whose workers go by a weakened store."""

    def __init__(
        self, weaken: Weakening, url: str | URL | None = None, *, schema: str | None = None
    ) -> None:
        super().__init__(url, schema=schema)
        self._weaken = weaken

    def open_database(
        self, *, max_connections: int, idle_in_transaction_s: float | None = None
    ) -> Database:
        database = super().open_database(
            max_connections=max_connections, idle_in_transaction_s=idle_in_transaction_s
        )
        database.store = self._weaken(database.store)
        return database

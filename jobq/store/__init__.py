"""The protocol's steps as SQL: one interface, two backends."""

from jobq.store.base import Store
from jobq.store.postgres import PostgresStore
from jobq.store.sqlite import SqliteStore
from jobq.store.step import Statement, Step

__all__ = ["PostgresStore", "SqliteStore", "Statement", "Step", "Store"]

"""Where the failure modes take place for a user: a shop made new for every scenario."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import URL

from jobq import schema
from jobq.database.url import backend_of
from jobq.embedded import EmbeddedPostgres
from jobq.errors import MissingExtra
from jobq.failure_modes.catalogue import FailureMode, Needs
from jobq.failure_modes.shop import Shop
from jobq.throwaway import queue_in

SCHEMA = "jobq_fm"
OURS = "made by jobq fm run, and dropped by it"


class NotHere(Exception):
    """This failure mode cannot be played on this database; the message says why."""


@contextmanager
def fresh_shop(url: URL, mode: FailureMode) -> Iterator[Shop]:
    """A shop for one scenario, gone when it is over.

    Raises NotHere, and InvalidDatabaseURL when it would have to touch what is not its own.
    """
    if reason := mode.not_on(backend_of(url)):
        raise NotHere(reason)
    if mode.needs is Needs.SERVER:
        with _on_own_server(mode) as shop:
            yield shop
        return
    with queue_in(url, SCHEMA, OURS) as own:
        # The ledger lies in the schema too, where the shop's own statements find it.
        given = own.render_as_string(hide_password=False)
        with Shop.open(given, schema=SCHEMA) as shop:
            yield shop


@contextmanager
def _on_own_server(mode: FailureMode) -> Iterator[Shop]:
    try:
        server = EmbeddedPostgres()
    except MissingExtra as missing:
        raise NotHere(f"needs {mode.needs}: {missing}") from missing
    with server:
        schema.upgrade(server.url())
        with Shop.open(server.url(), server=server) as shop:
            yield shop

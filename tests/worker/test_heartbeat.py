"""The heartbeat's thread ends when it is told to."""

from __future__ import annotations

from contextlib import closing

from jobq.database.open import open_database
from jobq.database.url import parse_url
from jobq.models import DEFAULT_SCHEMA
from jobq.worker.heartbeat import HeartbeatThread

BOUND_S = 10.0


def test_it_does_not_miss_that_it_is_to_stop(sqlite_url: str) -> None:
    """It is told between its look whether to stop and the end of its beat, where it takes note of
    the nudges that it has answered. With leases of an hour it would sleep for ten minutes."""
    with closing(open_database(parse_url(sqlite_url), schema=DEFAULT_SCHEMA)) as database:
        heartbeat = HeartbeatThread(database, "A", 3600.0, lambda _: None)

        def told_meanwhile() -> None:
            heartbeat._stop.set()
            heartbeat._nudge.set()

        heartbeat._extend_due = told_meanwhile  # type: ignore[method-assign]
        heartbeat.start()
        heartbeat._thread.join(BOUND_S)

        assert not heartbeat._thread.is_alive()
        heartbeat.stop()

"""Where the tests get their PostgreSQL from: the one server of a test run.

`JOBQ_TEST_SERVER` says which: `url` (the server `JOBQ_TEST_DATABASE_URL` names, whose user may
create databases), `testcontainers` (a container of `JOBQ_TEST_POSTGRES_IMAGE`), `embedded` (the
wheel's own), or `auto`, the default: the first of these three that can be had.
"""

from __future__ import annotations

import os

from jobq.errors import DatabaseUnavailable, MissingExtra
from jobq.testing.servers import (
    DEFAULT_IMAGE,
    SETTINGS,
    EmbeddedServer,
    Server,
    start_container,
)


class NoServer(Exception):
    """The server asked for cannot be had; the message says why."""


def start_server() -> Server:
    """Return a running server as the environment asks for it. Raises NoServer or JobqError."""
    given = os.environ.get("JOBQ_TEST_DATABASE_URL")
    choice = os.environ.get("JOBQ_TEST_SERVER", "auto")
    if choice == "url" or (choice == "auto" and given):
        if not given:
            raise NoServer("JOBQ_TEST_SERVER=url needs JOBQ_TEST_DATABASE_URL")
        return Server(given, "at JOBQ_TEST_DATABASE_URL")
    image = os.environ.get("JOBQ_TEST_POSTGRES_IMAGE", DEFAULT_IMAGE)
    if choice == "embedded":
        return EmbeddedServer()
    if choice == "testcontainers":
        return start_container(image)
    if choice != "auto":
        raise NoServer(
            f"JOBQ_TEST_SERVER is {choice!r}: set it to auto, testcontainers, embedded or url"
        )
    try:
        return start_container(image)
    except (DatabaseUnavailable, MissingExtra) as reason:
        return EmbeddedServer(f"embedded ({reason})")


__all__ = ["SETTINGS", "NoServer", "Server", "start_server"]

"""Where the tests get their PostgreSQL from: the one server of a test run.

`JOBQ_TEST_SERVER` says which: `url` (the server `JOBQ_TEST_DATABASE_URL` names, whose user may
create databases), `testcontainers` (a container of `JOBQ_TEST_POSTGRES_IMAGE`), `embedded` (the
wheel's own), or `auto`, the default: the first of these three that can be had.
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.engine import make_url

from jobq.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from testcontainers.community.postgres import PostgresContainer

DEFAULT_IMAGE = "postgres:18"

# Durability is worth nothing to a database that is dropped; xdist's workers share the connections.
SETTINGS = {"fsync": "off", "max_connections": "200"}


class NoServer(Exception):
    """The server asked for cannot be had; the message says why."""


class Server:
    """A server that was there before the tests and stays after them."""

    def __init__(self, admin_url: str, kind: str) -> None:
        self._admin_url = make_url(admin_url).set(drivername="postgresql")
        with psycopg.connect(self.url()) as connection:
            # Debian's packages add their own name after the number.
            version = connection.info.parameter_status("server_version") or "of unknown version"
        self.describe = f"PostgreSQL {version.split()[0]} {kind}"

    def url(self, database: str | None = None) -> str:
        """Return the URL of `database`, or of the one that is there to connect to first."""
        url = self._admin_url if database is None else self._admin_url.set(database=database)
        return url.render_as_string(hide_password=False)

    def stop(self) -> None:
        """Leave the server as it was found: the fixtures drop what they created."""


class EmbeddedServer(Server):
    def __init__(self, kind: str) -> None:
        self._postgres = EmbeddedPostgres(SETTINGS)
        super().__init__(self._postgres.url(), kind)

    def stop(self) -> None:
        self._postgres.close()


class ContainerServer(Server):
    def __init__(self, container: PostgresContainer) -> None:
        self._container = container
        super().__init__(
            container.get_connection_url(driver=None),
            f"in container {container.image} (testcontainers)",
        )

    def stop(self) -> None:
        self._container.stop()


def start_server() -> Server:
    """Return a running server as the environment asks for it. Raises NoServer."""
    given = os.environ.get("JOBQ_TEST_DATABASE_URL")
    choice = os.environ.get("JOBQ_TEST_SERVER", "auto")
    if choice == "url" or (choice == "auto" and given):
        if not given:
            raise NoServer("JOBQ_TEST_SERVER=url needs JOBQ_TEST_DATABASE_URL")
        return Server(given, "at JOBQ_TEST_DATABASE_URL")
    if choice == "embedded":
        return EmbeddedServer("embedded")
    if choice == "testcontainers":
        return _start_container()
    if choice != "auto":
        raise NoServer(
            f"JOBQ_TEST_SERVER is {choice!r}: set it to auto, testcontainers, embedded or url"
        )
    try:
        return _start_container()
    except NoServer as reason:
        return EmbeddedServer(f"embedded ({reason})")


def _start_container() -> ContainerServer:
    # Imported here: importing it asks Docker for its address, and a worker of xdist needs neither.
    import docker  # type: ignore[import-untyped]
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.exceptions import ContainerStartException

    image = os.environ.get("JOBQ_TEST_POSTGRES_IMAGE", DEFAULT_IMAGE)
    try:
        with closing(docker.from_env()) as engine:
            engine.ping()
    except docker.errors.DockerException as error:
        raise NoServer(f"no Docker engine answers: {_first_line(error)}") from error

    container = PostgresContainer(
        image,
        username="postgres",
        password="jobq",
        dbname="postgres",
        command=" ".join(f"-c {name}={value}" for name, value in SETTINGS.items()),
        stop_signal="SIGINT",  # disconnects the clients; SIGTERM would wait for them
    )
    faults = (docker.errors.DockerException, ContainerStartException, TimeoutError, psycopg.Error)
    try:
        container.start()
        return ContainerServer(container)
    except faults as error:
        container.stop()
        raise NoServer(f"no container of {image}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

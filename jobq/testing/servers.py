"""PostgreSQL servers for tests: one that is there, one of the wheel's, or one in a container."""

from __future__ import annotations

from contextlib import closing
from importlib.util import find_spec
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.engine import URL, make_url

from jobq.embedded import EmbeddedPostgres
from jobq.errors import DatabaseUnavailable, MissingExtra

if TYPE_CHECKING:
    from testcontainers.community.postgres import PostgresContainer

DEFAULT_IMAGE = "postgres:18"

# Durability is worth nothing to a database that is dropped; xdist's workers share the connections.
SETTINGS = {"fsync": "off", "max_connections": "200"}
DATA = "/var/lib/jobq-postgres"
"""In a container's memory: each test's database is hundreds of files, and a file system on a disk
takes several times as long to make and to delete them."""


class Server:
    """A server that was there before the tests and stays after them. Its user may create databases.

    Raises DatabaseUnavailable when it does not answer.
    """

    def __init__(self, admin_url: str | URL, kind: str) -> None:
        self._admin_url = make_url(admin_url).set(drivername="postgresql")
        try:
            with psycopg.connect(self.url()) as connection:
                # Debian's packages add their own name after the number.
                version = connection.info.parameter_status("server_version") or "of unknown version"
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(f"{self._admin_url!r}: {str(error).strip()}") from error
        self.describe = f"PostgreSQL {version.split()[0]} {kind}"

    def url(self, database: str | None = None) -> str:
        """Return the URL of `database`, or of the one that is there to connect to first."""
        url = self._admin_url if database is None else self._admin_url.set(database=database)
        return url.render_as_string(hide_password=False)

    def stop(self) -> None:
        """Leave the server as it was found: who creates databases drops them."""


class EmbeddedServer(Server):
    """The wheel's own. Raises MissingExtra or DatabaseUnavailable."""

    def __init__(self, kind: str = "embedded") -> None:
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


def start_container(image: str = DEFAULT_IMAGE) -> ContainerServer:
    """Start a server in a container. Raises MissingExtra, or DatabaseUnavailable with the reason
    why there is none."""
    if find_spec("testcontainers") is None:
        raise MissingExtra("PostgreSQL in a container", "testcontainers")
    # Imported here: importing it asks Docker for its address.
    import docker  # type: ignore[import-untyped]
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.exceptions import ContainerStartException

    try:
        with closing(docker.from_env()) as engine:
            engine.ping()
    except docker.errors.DockerException as error:
        raise DatabaseUnavailable(f"no Docker engine answers: {_first_line(error)}") from error

    container = PostgresContainer(
        image,
        username="postgres",
        password="jobq",  # noqa: S106 - of a database that is thrown away
        dbname="postgres",
        command=" ".join(f"-c {name}={value}" for name, value in SETTINGS.items()),
        stop_signal="SIGINT",  # disconnects the clients; SIGTERM would wait for them
    )
    container.with_env("PGDATA", DATA).with_tmpfs_mount(DATA)
    # The password is no secret, and to prove that one knows it takes longer than many a statement.
    container.with_env("POSTGRES_HOST_AUTH_METHOD", "trust")
    faults = (
        docker.errors.DockerException,
        ContainerStartException,
        TimeoutError,
        DatabaseUnavailable,
    )
    try:
        container.start()
        return ContainerServer(container)
    except faults as error:
        container.stop()
        raise DatabaseUnavailable(f"no container of {image}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

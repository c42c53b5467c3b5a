"""A PgBouncer in transaction mode before a PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import URL

from jobq.database.url import conninfo, parse_url
from jobq.failure_modes.transactions import WAIT_S, wait_until

PROGRAM = "pgbouncer"
CONFIG = """
[databases]
* = host={host} port={port} user={user}{password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {servers}
max_client_conn = 200
logfile = {folder}/pgbouncer.log
pidfile = {folder}/pgbouncer.pid
"""


def is_installed() -> bool:
    return shutil.which(PROGRAM) is not None


@contextmanager
def pooler_to(url: URL, *, servers: int) -> Iterator[str]:
    """The database again, through a PgBouncer of its own with so many connections to the server.

    Settings that the URL gives for the session (`options`) are left out: there is no session.
    """
    server = conninfo_to_dict(conninfo(url))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        own_port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="jobq-pgbouncer-") as made:
        folder = Path(made)
        config = folder / "pgbouncer.ini"
        config.write_text(
            CONFIG.format(
                host=server["host"],
                port=server.get("port") or 5432,
                user=server["user"],
                password=f" password={server['password']}" if server.get("password") else "",
                own_port=own_port,
                servers=servers,
                folder=folder,
            )
        )
        command = [PROGRAM, str(config)]
        if os.getuid() == 0:  # which it refuses to be
            folder.chmod(0o777)
            command[1:1] = ["-u", "nobody"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603 - our own
        try:
            through = f"postgresql://{server['user']}@127.0.0.1:{own_port}/{server['dbname']}"
            wait_until(lambda: _answers(through, process), "pgbouncer to answer")
            yield through
        finally:
            process.terminate()
            process.wait(WAIT_S)


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "pgbouncer ended"
    try:
        client_of(url).close()
    except psycopg.OperationalError:
        return False
    return True


def client_of(url: str) -> psycopg.Connection[Any]:
    """A client of the pooler, whose statements are transactions of their own."""
    return psycopg.connect(conninfo(parse_url(url)), autocommit=True, prepare_threshold=None)

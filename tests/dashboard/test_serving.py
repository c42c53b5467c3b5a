"""A served dashboard stops when it is told to, whoever looks at it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from http.client import HTTPConnection

import pytest
from fastapi import FastAPI

from jobq import JobQueue
from jobq.dashboard import create_dashboard
from tests.dashboard.browser import served
from tests.examples.services import free_port
from tests.worker.conftest import wait_for

BOUND_S = 30.0


class Looking:
    """As a browser with the overview open: it was told the numbers, and keeps its connection."""

    def __init__(self, port: int, path: str) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=BOUND_S)
        self._connection.request("GET", path)
        self._response = self._connection.getresponse()
        while b"Committed" not in (line := self._response.readline()):
            assert line, "there are no numbers"

    def close(self) -> None:
        self._response.close()
        self._connection.close()


def is_served(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_by_a_signal(sqlite_url: str, how: signal.Signals) -> None:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "jobq", "dashboard", f"--port={port}", "--database-url", sqlite_url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_for(lambda: is_served(port), "the dashboard to be served")
            with closing(Looking(port, "/live")):
                process.send_signal(how)
                _, complaints = process.communicate(timeout=BOUND_S)
        finally:
            process.kill()
    assert complaints == ""
    assert process.returncode in (0, -how)


def test_a_service_drains_though_somebody_looks(sqlite_url: str) -> None:
    app = JobQueue(sqlite_url)
    is_drained = threading.Event()

    @app.task
    def noop() -> None: ...

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with app.worker(poll_s=0.02):
            yield
        is_drained.set()

    service = FastAPI(lifespan=lifespan)
    service.mount("/jobs", create_dashboard(app))
    with ExitStack() as who_looks, served(service) as address:
        port = int(address.rpartition(":")[2])
        who_looks.enter_context(closing(Looking(port, "/jobs/live")))
        # asked to stop while somebody looks
    assert is_drained.is_set()
    app.close()

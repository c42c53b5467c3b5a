"""Services started as their users would start them, on a port of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BOUND_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    arguments: Sequence[str], log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m ARGUMENTS`, ended by SIGTERM."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )
    try:
        yield process
        process.terminate()
        process.wait(BOUND_S)
    finally:
        process.kill()
        process.wait(BOUND_S)


def wait_until_it_answers(
    url: str, process: subprocess.Popen[bytes], log: Path, bound_s: float = BOUND_S
) -> None:
    deadline_s = time.monotonic() + bound_s
    while True:
        try:
            urllib.request.urlopen(url, timeout=BOUND_S).close()
        except urllib.error.HTTPError:
            return
        except urllib.error.URLError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.05)
        else:
            return


def ask(url: str, document: object = None) -> Any:
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=BOUND_S) as answer:
        return json.loads(answer.read())

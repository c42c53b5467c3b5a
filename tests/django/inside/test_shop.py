"""The example, as it is started: migrated, served, and worked for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.examples.services import (
    ROOT,
    ask,
    free_port,
    running,
    wait_until_it_answers,
)

MANAGE, SETTINGS = "examples.django_shop.manage", "examples.django_shop.settings"
BOUND_S = 240.0
"""The environment is new: whoever comes first compiles Django and SQLAlchemy."""


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """A database that nothing was done to yet."""
    return {
        "SHOP_DATABASE_URL": os.environ["JOBQ_TEST_DJANGO_URL"],
        "DJANGO_SETTINGS_MODULE": SETTINGS,
        "PYTHONUNBUFFERED": "1",
    }


def manage(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", MANAGE, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
    )


@pytest.fixture(scope="module", autouse=True)
def _migrated(environment: dict[str, str]) -> None:
    done = manage(environment, "migrate")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shop") / "shop.log"


@pytest.fixture(scope="module")
def address(environment: dict[str, str], log: Path) -> Iterator[str]:
    port = free_port()
    command = [MANAGE, "runserver", "--noreload", f"127.0.0.1:{port}"]
    with running(command, log, **environment) as process:
        wait_until_it_answers(f"http://127.0.0.1:{port}/orders/0", process, log, BOUND_S)
        yield f"http://127.0.0.1:{port}"


def finished(address: str, task_id: str, log: Path) -> Any:
    deadline_s = time.monotonic() + BOUND_S
    while (found := ask(f"{address}/tasks/{task_id}"))["status"] not in ("SUCCESSFUL", "FAILED"):
        assert time.monotonic() < deadline_s, f"{found}\n{log.read_text()}"
        time.sleep(0.05)
    return found


def test_an_order_is_charged_once_and_a_refused_one_never(
    address: str, environment: dict[str, str], log: Path
) -> None:
    placed = [ask(f"{address}/orders", {"customer": "Ada", "cents": cents}) for cents in (500, 700)]
    with pytest.raises(urllib.error.HTTPError, match="422"):
        ask(f"{address}/orders", {"customer": "Eve", "cents": 0})

    with running([MANAGE, "jobq_worker", "--poll", "0.05", "-c", "2"], log, **environment):
        found = [finished(address, one["task_id"], log) for one in placed]

    assert found == [
        {"status": "SUCCESSFUL", "attempts": 1, "return_value": cents} for cents in (500, 700)
    ]
    assert [ask(f"{address}/orders/{one['order_id']}") for one in placed] == [
        {"cents": 500, "charged": 500},
        {"cents": 700, "charged": 700},
    ]
    refused = int(placed[-1]["order_id"]) + 1
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(f"{address}/orders/{refused}")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(f"{address}/tasks/{int(placed[-1]['task_id']) + 1}")


def test_several_worker_processes_and_the_command_of_jobq_itself(
    address: str, environment: dict[str, str], log: Path
) -> None:
    worker = [MANAGE, "jobq_worker", "--queues", "billing", "--processes", "2", "--poll", "0.05"]
    placed = ask(f"{address}/orders", {"customer": "Bob", "cents": 300})
    with running(worker, log, **environment):
        finished(address, placed["task_id"], log)

    placed = ask(f"{address}/orders", {"customer": "Bob", "cents": 400})
    worker = ["jobq", "worker", "jobq.django.worker:default", "--poll", "0.05"]
    with running(worker, log, **environment):
        finished(address, placed["task_id"], log)


def test_commands(environment: dict[str, str]) -> None:
    assert "at revision" in manage(environment, "jobq_upgrade").stdout
    assert manage(environment, "check", "--fail-level", "WARNING").returncode == 0
    listed = manage(environment, "jobq", "jobs", "list", "--limit", "1")
    assert "TASK" in listed.stdout, listed.stderr
    unknown = manage(environment, "jobq_worker", "--graze", "30")
    assert unknown.returncode == 2
    assert "--graze" in unknown.stderr
    absent = manage(environment, "jobq_worker", "--backend", "nope")
    assert absent.returncode != 0
    assert "nope" in absent.stderr

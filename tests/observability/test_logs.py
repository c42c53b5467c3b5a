"""What the logs say by fields, and that a machine can read them."""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobq import JobQueue, Retry
from jobq.cli import main
from jobq.store.elapsed import elapse
from tests.worker.conftest import BOUND_S, ROOT, Site, wait_for

OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime"}
LOGGERS = ("logger", "log")


def documented() -> set[str]:
    page = (ROOT / "docs/observability.md").read_text()
    table = page.split("## Logs")[1].split("\n## ")[0]
    return set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))))


def calls() -> Iterator[tuple[Path, ast.Call]]:
    """Every call of a logger in the package."""
    for path in sorted((ROOT / "jobq").rglob("*.py")):
        if "failure_modes" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("debug", "info", "warning", "error", "exception")
                and ast.unparse(node.func.value).split(".")[-1] in LOGGERS
            ):
                yield path, node


def test_every_call_has_fields_and_each_is_documented() -> None:
    found = list(calls())
    assert len(found) > 25
    known = documented()
    for path, call in found:
        where = f"{path.name}:{call.lineno}"
        extra = next((one.value for one in call.keywords if one.arg == "extra"), None)
        has_own = ast.unparse(call.func).endswith(f".log.{call.func.attr}")  # type: ignore[attr-defined]
        assert extra is not None or has_own, f"{where} has no fields"
        for node in ast.walk(extra) if extra is not None else ():
            if isinstance(node, ast.Dict):
                names = {key.value for key in node.keys if isinstance(key, ast.Constant)}
                assert names <= known, where


@pytest.fixture
def app(site: Site) -> Iterator[JobQueue]:
    app = JobQueue(site.url)
    yield app
    app.close()


class Kept(logging.Handler):
    """Every record of jobq's, by what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def fields(self, text: str) -> dict[str, Any]:
        wait_for(lambda: any(text in one.getMessage() for one in list(self.records)), text)
        record = next(one for one in self.records if text in one.getMessage())
        return {name: v for name, v in vars(record).items() if name not in OF_EVERY_RECORD}


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept()
    jobq = logging.getLogger("jobq")
    level = jobq.level
    jobq.addHandler(kept)
    jobq.setLevel(logging.INFO)
    yield kept
    jobq.setLevel(level)
    jobq.removeHandler(kept)


def test_an_attempt_that_failed_and_one_that_came_too_late(
    site: Site, app: JobQueue, kept: Kept
) -> None:
    is_held, may_go_on = threading.Event(), threading.Event()

    @app.task(queue="slow", max_attempts=2, retry=Retry(base_s=0.01))
    def hold() -> None:
        if not is_held.is_set():
            is_held.set()
            may_go_on.wait(BOUND_S)

    @app.task(max_attempts=1)
    def fail() -> None:
        raise ValueError("never")

    held = hold.enqueue()
    with app.worker(poll_s=0.05, reconcile_s=0.05) as worker:
        assert is_held.wait(BOUND_S)
        app.database.run(elapse(app.database.store.portable, 3_600))
        held.wait(BOUND_S)
        may_go_on.set()
        assert kept.fields("was refused") == {
            "worker": worker.id,
            "job_id": held.id,
            "token": 1,
            "stage": "commit",
            "reason": "already_committed",
        }
        # Not before: for it, too, an hour would have gone by in the middle of its attempt.
        failed = fail.enqueue()
        failed.wait(BOUND_S)

    serves = kept.fields("serves all queues")
    assert (serves["queues"], serves["concurrency"]) == (None, 10)
    assert kept.fields("recovered expired leases") == {
        "worker": worker.id,
        "healed": (),
        "retried": (held.id,),
        "dead": (),
        "ambiguous": (),
    }
    assert kept.fields("failed in attempt") == {
        "worker": worker.id,
        "job_id": failed.id,
        "token": 1,
        "task": fail.name,
        "queue": "default",
        "attempt": 1,
        "max_attempts": 1,
        "error_type": "ValueError",
        "error_message": "never",
    }
    assert {name for one in kept.records for name in vars(one)} <= OF_EVERY_RECORD | documented()


def test_lines_of_json(postgres_site: Site) -> None:
    site = postgres_site
    charges = site.app.tasks["tests.worker.charges.charge_by_step"]
    charges.enqueue(folder=str(site.folder / "is not there"))
    worker = site.start_worker("--log-format", "json")
    wait_for(lambda: "failed in attempt" in site.log(), "a failure in the log")
    worker.terminate()
    worker.wait(BOUND_S)

    lines = [json.loads(line) for line in site.log().splitlines()]
    failed = next(line for line in lines if "failed in attempt" in line["message"])
    assert failed["level"] == "INFO"
    assert failed["logger"] == "jobq.worker"
    assert failed["job_id"] == 1
    assert failed["worker"] in lines[0]["message"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*\+00:00", failed["timestamp"])


def test_json_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pythonjsonlogger.json", None)
    ran = CliRunner().invoke(main, ["worker", "tests.worker.charges:app", "--log-format", "json"])
    assert ran.exit_code == 1
    assert "pip install 'jobq[json]'" in ran.output

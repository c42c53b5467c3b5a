"""The FastAPI example, as it is started."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from jobq.database.url import parse_url
from tests.examples.services import BOUND_S, ask, free_port, running, wait_until_it_answers


@pytest.fixture
def address(database_url: str, tmp_path: Path) -> Iterator[str]:
    log, port = tmp_path / "service.log", free_port()
    command = ["uvicorn", "examples.fastapi_shop.service:service", "--port", str(port)]
    with running(command, log, JOBQ_DATABASE_URL=database_url) as process:
        wait_until_it_answers(f"http://127.0.0.1:{port}/openapi.json", process, log)
        yield f"http://127.0.0.1:{port}"
    assert "Application shutdown complete" in log.read_text()


def test_an_order_is_charged_once_and_a_refused_one_never(address: str, database_url: str) -> None:
    placed = [ask(f"{address}/orders", {"customer": "Ada", "cents": n}) for n in (500, 700)]
    with pytest.raises(urllib.error.HTTPError, match="422"):
        ask(f"{address}/orders", {"customer": "Eve", "cents": 0})

    for one in placed:
        deadline_s = time.monotonic() + BOUND_S
        while (job := ask(f"{address}/jobs/{one['job_id']}"))["state"] != "done":
            assert time.monotonic() < deadline_s, job
            time.sleep(0.05)
    assert job["result"] == "700"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(f"{address}/jobs/999")
    with urllib.request.urlopen(f"{address}/ops/jobs/jobs?state=done") as page:
        assert f">{placed[0]['job_id']}</a>" in page.read().decode()

    engine = create_engine(parse_url(database_url))
    jobs = "jobq_jobs" if engine.dialect.name == "sqlite" else "jobq.jobs"
    with engine.connect() as connection:
        charged = connection.execute(text("SELECT order_id, cents FROM charges ORDER BY 1")).all()
        count = connection.scalar(text(f"SELECT count(*) FROM {jobs}"))
    engine.dispose()
    assert charged == [(placed[0]["order_id"], 500), (placed[1]["order_id"], 700)]
    assert count == 2

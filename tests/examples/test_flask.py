"""The Flask example and its worker, as they are started."""

from __future__ import annotations

import time
import urllib.error
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from jobq.database.url import parse_url
from tests.examples.services import BOUND_S, ask, free_port, running, wait_until_it_answers

SERVICE = "examples.flask_shop.service"


def test_a_row_that_is_flushed_has_its_job_and_one_that_is_not_committed_has_none(
    database_url: str, tmp_path: Path
) -> None:
    log, port = tmp_path / "service.log", free_port()
    engine = create_engine(parse_url(database_url))

    def welcomed() -> list[int]:
        with engine.connect() as connection:
            return list(connection.scalars(text("SELECT signup_id FROM welcomes ORDER BY 1")))

    service = ["flask", "--app", SERVICE, "run", "--port", str(port)]
    worker = ["jobq", "worker", f"{SERVICE}:app", "--poll", "0.05"]
    with running(service, log, JOBQ_DATABASE_URL=database_url) as process:
        wait_until_it_answers(f"http://127.0.0.1:{port}/jobs/1", process, log)
        with running(worker, log, JOBQ_DATABASE_URL=database_url):
            address = f"http://127.0.0.1:{port}/signups"
            ids = [ask(address, {"email": f"{name}@example.org"})["id"] for name in "ab"]
            with pytest.raises(urllib.error.HTTPError, match="422"):
                ask(address, {"email": "nobody"})
            deadline_s = time.monotonic() + BOUND_S
            while len(welcomed()) < len(ids):
                assert time.monotonic() < deadline_s, log.read_text()
                time.sleep(0.05)
        assert welcomed() == ids
        assert ask(f"http://127.0.0.1:{port}/jobs/1") == {"state": "done"}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            ask(f"http://127.0.0.1:{port}/jobs/3")
    engine.dispose()

"""The tutorial, from its file to the trace."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from jobq.database.url import parse_url
from tests.examples.services import BOUND_S, ask, free_port, wait_until_it_answers

INSIDE = {
    "POST /orders": None,
    "fastapi.dependencies": "POST /orders",
    "fastapi.endpoint": "POST /orders",
    "fastapi.serialization": "POST /orders",
    "create billing": "fastapi.endpoint",
    "process billing": "create billing",
}
"""The spans of the order's trace, as the page's table has them."""
PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"


def spans_of_the_order(log: str) -> dict[str, dict[str, Any]]:
    """Those of the trace in which the job was created, by their names."""
    spans = spans_in(log)
    traces = {one["context"]["trace_id"] for one in spans if one["name"] == "create billing"}
    return {one["name"]: one for one in spans if one["context"]["trace_id"] in traces}


def spans_in(log: str) -> list[dict[str, Any]]:
    """What the console exporter printed among other things: one object after the other."""
    found = []
    decoder = json.JSONDecoder()
    for start in re.finditer(r"^\{", log, re.MULTILINE):
        try:
            found.append(decoder.raw_decode(log, start.start())[0])
        except json.JSONDecodeError:
            continue  # not yet printed to its end
    return found


def test_from_the_file_to_the_trace(database_url: str, tmp_path: Path) -> None:
    told = PAGE.read_text()
    assert [name for name in INSIDE if f"`{name}`" not in told] == []
    (listing,) = re.findall(r"```python\n(.*?)```", told, re.DOTALL)
    (tmp_path / "shop.py").write_text(listing)
    log, port = tmp_path / "service.log", free_port()
    environment = {**os.environ, "JOBQ_DATABASE_URL": database_url, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "shop:service", "--port", str(port)],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_it_answers(f"{address}/openapi.json", process, log)
        placed = ask(f"{address}/orders?cents=999", {})
        assert placed == {"order": 1, "job": 1}
        deadline_s = time.monotonic() + BOUND_S
        while INSIDE.keys() - (spans := spans_of_the_order(log.read_text())).keys():
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.05)
        shown = subprocess.run(
            [sys.executable, "-m", "jobq", "jobs", "wait", "1"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
        )
        assert shown.returncode == 0, shown.stderr
        with urllib.request.urlopen(f"{address}/ops/jobs/jobs/1") as page:
            assert "the record, token 1" in page.read().decode()
    finally:
        process.terminate()
        process.wait(BOUND_S)

    names = {one["context"]["span_id"]: name for name, one in spans.items()}
    parents = {name: one["parent_id"] for name, one in spans.items()}
    assert {name: parent and names[parent] for name, parent in parents.items()} == INSIDE
    assert [event["name"] for event in spans["process billing"]["events"]] == [
        *("effect begun", "effect committed")
    ]
    engine = create_engine(parse_url(database_url))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT order_id, cents FROM charges")).all() == [(1, 999)]
    engine.dispose()

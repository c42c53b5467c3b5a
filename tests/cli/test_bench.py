"""`jobq bench`: a first look at a database of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg

from tests.cli.test_commands import jobq, refusal
from tests.cli.test_fm import SCHEMAS

SMALL = ("bench", "--scale", "0.002")
RATES = ("enqueue_per_s", "drain_per_s", "effects_per_s", "latency_p50_ms", "latency_p99_ms")


def test_it_measures_and_leaves_nothing_behind(tmp_path: Path, empty_postgres_url: str) -> None:
    done = jobq(tmp_path, *SMALL, "--json", "--database-url", empty_postgres_url)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert all(measured[name] > 0 for name in RATES)
    assert (measured["effects_lost"], measured["effects_duplicated"]) == (0, 0)
    assert done.stderr == "", "progress is for terminals"
    with psycopg.connect(empty_postgres_url) as connection:
        assert connection.execute(SCHEMAS).fetchall() == []


def test_it_measures_sqlite_in_a_file_of_its_own(tmp_path: Path) -> None:
    done = jobq(tmp_path, *SMALL, "--database-url", f"sqlite:///{tmp_path / 'bench.db'}")
    assert done.returncode == 0, done.stderr
    assert "0 lost, 0 duplicated" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.db").write_text("mine")
    done = jobq(tmp_path, *SMALL, "--database-url", f"sqlite:///{tmp_path / 'mine.db'}")
    assert "is there already" in refusal(done)
    assert (tmp_path / "mine.db").read_text() == "mine"


def test_a_schema_of_that_name_is_left_alone(tmp_path: Path, empty_postgres_url: str) -> None:
    with psycopg.connect(empty_postgres_url) as connection:
        connection.execute("CREATE SCHEMA jobq_bench")
    done = jobq(tmp_path, *SMALL, "--database-url", empty_postgres_url)
    assert "jobq did not make" in refusal(done)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    done = jobq(tmp_path, *SMALL, "--database-url", "postgresql://127.0.0.1:1/nowhere")
    assert "Connection refused" in refusal(done)

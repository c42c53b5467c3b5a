"""`jobq fm`: the failure modes, live, for a user."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg

from jobq.failure_modes.registry import FAILURE_MODES
from tests.cli.test_commands import jobq, refusal

SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'jobq%'"


def test_list_shows_the_catalogue(tmp_path: Path) -> None:
    done = jobq(tmp_path, "fm", "list")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [mode.id for mode in FAILURE_MODES]
    assert "duplicate effect after lease expiry" in lines[0]


def test_run_shows_the_harm_and_that_it_is_prevented(
    tmp_path: Path, empty_postgres_url: str
) -> None:
    done = jobq(tmp_path, "fm", "run", "fm_001", "--database-url", empty_postgres_url)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 harms reproduced" in done.stdout
    assert "1 of 1 prevented" in done.stdout
    with psycopg.connect(empty_postgres_url) as connection:
        left = connection.execute(SCHEMAS).fetchall()
    assert left == [], "it cleans up after itself"


def test_json_is_a_list_of_objects_and_nothing_else(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'fm.db'}"
    done = jobq(tmp_path, "fm", "run", "FM_001", "--json", "--database-url", url)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert list(result) == ["id", "title", "reproduced", "prevented", "detail"]
    assert result["id"] == "FM_001"
    assert result["reproduced"] is result["prevented"] is True
    assert "charged by A and B" in result["detail"]
    assert list(tmp_path.iterdir()) == [], "the file it made is gone"


def test_run_on_a_throwaway_database(tmp_path: Path) -> None:
    done = jobq(tmp_path, "fm", "run", "FM_001", "--json")
    assert done.returncode == 0, done.stderr
    assert [one["prevented"] for one in json.loads(done.stdout)] == [True]


def test_an_unknown_failure_mode_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    done = jobq(tmp_path, "fm", "run", "FM_999")
    assert done.returncode == 2
    assert "FM_999" in done.stderr
    assert "jobq fm list" in done.stderr


def test_a_schema_or_file_that_is_not_ours_is_left_alone(
    tmp_path: Path, empty_postgres_url: str
) -> None:
    with psycopg.connect(empty_postgres_url) as connection:
        connection.execute("CREATE SCHEMA jobq_fm")
    assert "jobq_fm" in refusal(jobq(tmp_path, "fm", "run", "FM_001", url=empty_postgres_url))
    path = tmp_path / "shop.db"
    path.write_text("precious")
    assert "shop.db" in refusal(jobq(tmp_path, "fm", "run", "FM_001", url=f"sqlite:///{path}"))
    assert path.read_text() == "precious"

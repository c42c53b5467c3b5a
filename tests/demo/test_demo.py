"""`jobq demo` as a user runs it: a process of its own, its exit code and its last line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

JOBS = 300
TIMEOUT_S = 110


def run_demo(folder: Path, *arguments: str) -> tuple[int, dict[str, int], Sequence[str]]:
    environment = {k: v for k, v in os.environ.items() if k != "JOBQ_DATABASE_URL"}
    finished = subprocess.run(
        [sys.executable, "-m", "jobq", "demo", "--jobs", str(JOBS), "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=folder,
        env=environment,
    )
    assert finished.stderr == "", finished.stderr
    lines = finished.stdout.splitlines()
    report: dict[str, int] = json.loads(lines[-1])
    return finished.returncode, report, lines


def test_the_books_are_exact_whatever_happens_to_the_workers(tmp_path: Path) -> None:
    exit_code, report, lines = run_demo(tmp_path)

    assert exit_code == 0
    assert (report["jobs"], report["applied"]) == (JOBS, JOBS)
    assert (report["duplicated"], report["lost"], report["wrong_balances"]) == (0, 0, 0)
    assert report["healed"] >= 1, "a worker was killed between its commit and its done"
    assert report["refused"] >= 1, "a worker was woken after its lease"
    assert report["attempts"] > JOBS
    told = "\n".join(lines)
    for fault in ("SIGKILL", "SIGSTOP", "SIGCONT", "restarted the database"):
        assert fault in told


def test_the_naive_queue_charges_twice(tmp_path: Path) -> None:
    exit_code, report, _ = run_demo(tmp_path, "--naive")

    assert exit_code == 1
    assert report["duplicated"] >= 1
    assert report["applied"] == JOBS + report["duplicated"]


def test_sqlite(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'demo.db'}"
    exit_code, report, _ = run_demo(tmp_path, "--database-url", url)

    assert exit_code == 0
    assert (report["applied"], report["duplicated"], report["lost"]) == (JOBS, 0, 0)


def test_a_given_postgresql(tmp_path: Path, empty_postgres_url: str) -> None:
    exit_code, report, lines = run_demo(tmp_path, "--database-url", empty_postgres_url)

    assert exit_code == 0
    assert (report["applied"], report["duplicated"], report["lost"]) == (JOBS, 0, 0)
    assert any("database sessions" in line for line in lines)

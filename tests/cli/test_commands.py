"""The `jobq` command as a user meets it: what it prints, and how it says no."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from jobq.cli.root import COMMANDS
from jobq.revisions import revisions

APP = """
from jobq import JobQueue
app = JobQueue()
empty = JobQueue()

@app.task
def noop() -> None: ...
"""


def jobq(folder: Path, *arguments: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JOBQ_")}
    if url is not None:
        environment["JOBQ_DATABASE_URL"] = url
    return subprocess.run(
        [sys.executable, "-m", "jobq", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """One line on stderr, exit code 1, no traceback."""
    assert done.returncode == 1, done
    assert done.stderr.startswith("Error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_help_lists_the_commands_and_imports_no_database_library() -> None:
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom jobq.cli import main\n"
        "print(CliRunner().invoke(main, ['--help']).output)\n"
        "print(sorted({'sqlalchemy', 'psycopg', 'alembic'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    for command in ("upgrade", "downgrade", "check", "worker", "prune", "fm", "demo"):
        assert f"  {command} " in done.stdout
    assert done.stdout.endswith("[]\n")


def test_version(tmp_path: Path) -> None:
    assert jobq(tmp_path, "--version").stdout.startswith("jobq, version ")


@pytest.mark.parametrize("backend", ["postgresql", "sqlite"])
def test_upgrade_check_downgrade(
    request: pytest.FixtureRequest, tmp_path: Path, backend: str
) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    if backend == "postgresql":
        url = request.getfixturevalue("empty_postgres_url")
    assert "jobq upgrade" in refusal(jobq(tmp_path, "check", url=url))
    upgraded = jobq(tmp_path, "upgrade", "--database-url", url)
    assert upgraded.returncode == 0, upgraded.stderr
    assert f"is at revision {revisions()[-1]}" in upgraded.stdout
    assert jobq(tmp_path, "check", url=url).returncode == 0
    assert jobq(tmp_path, "upgrade", url=url).returncode == 0, "twice is harmless"
    asked = jobq(tmp_path, "downgrade", "base", url=url)
    assert asked.returncode == 1, "nobody said yes"
    downgraded = jobq(tmp_path, "downgrade", "base", "--yes", url=url)
    assert "no jobq tables" in downgraded.stdout, downgraded.stderr


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (None, "--database-url, or set JOBQ_DATABASE_URL"),
        ("mysql://localhost/shop", "PostgreSQL and SQLite"),
        ("not a url", "is not a database URL"),
        ("sqlite://", "in-memory"),
        ("sqlite:////no/such/folder/jobs.db", "jobq upgrade"),
        ("postgresql://localhost:1/nowhere", "refused"),
    ],
)
def test_a_database_that_cannot_be_used(tmp_path: Path, url: str | None, told: str) -> None:
    assert told in refusal(jobq(tmp_path, "check", url=url))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["shop"], "write module:attribute"),
        (["no_such_module:app"], "cannot import 'no_such_module'"),
        (["shop:nothing"], "has no 'nothing'"),
        (["shop:noop"], "not a jobq.JobQueue"),
        (["shop:empty"], "has no tasks"),
        (["shop:app", "--concurrency", "0"], "concurrency is 0"),
        (["shop:app", "--lease", "0"], "lease_s is 0"),
        (["shop:app", "--queues", ","], "queues is empty"),
    ],
)
def test_a_worker_that_cannot_be_started(
    tmp_path: Path, sqlite_url: str, arguments: list[str], told: str
) -> None:
    (tmp_path / "shop.py").write_text(APP)

    assert told in refusal(jobq(tmp_path, "worker", *arguments, url=sqlite_url))


def test_a_worker_of_an_older_version_is_told_so(tmp_path: Path, sqlite_url: str) -> None:
    (tmp_path / "shop.py").write_text(APP)
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE jobq_alembic_version SET version_num = '9999'")
    connection.close()

    assert "upgrade the jobq package" in refusal(
        jobq(tmp_path, "worker", "shop:app", url=sqlite_url)
    )


def test_every_command_is_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for name in COMMANDS:
        assert f"`jobq {name}" in page, name


class TestDashboard:
    @pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "jobs.example"])
    def test_open_to_others_it_needs_a_token(
        self, tmp_path: Path, sqlite_url: str, host: str
    ) -> None:
        refused = refusal(jobq(tmp_path, "dashboard", "--host", host, url=sqlite_url))
        assert "pass --token-file" in refused

    def test_it_serves(self, tmp_path: Path, sqlite_url: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "jobq", "dashboard", "--port", str(port)],
            env={**os.environ, "JOBQ_DATABASE_URL": sqlite_url},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert "read-only" in process.stdout.readline()
            address = f"http://127.0.0.1:{port}/workers"
            deadline_s = time.monotonic() + 30
            while True:
                try:
                    page = urllib.request.urlopen(address).read().decode()
                    break
                except urllib.error.URLError:
                    assert time.monotonic() < deadline_s
                    time.sleep(0.05)
            assert "No worker was seen yet" in page
            elsewhere = urllib.request.Request(address, headers={"host": "evil.example"})
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(elsewhere)
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()  # type: ignore[union-attr]

"""The operator's commands against a live database: what they print, change, and exit with."""

from __future__ import annotations

import importlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import create_engine, text

from jobq import JobQueue
from jobq.cli import main
from jobq.cli.operator import duration
from jobq.database.url import parse_url
from tests.cli.test_commands import jobq
from tests.worker.conftest import wait_for

APP = """
from jobq import JobQueue, Retry
app = JobQueue()

@app.task(name="add", queue="sums")
def add(order: str, n: int, tags: list[str] = []) -> int:
    return n

@app.task(name="fail", queue="bad", max_attempts=2, retry=Retry(base_s=0.01, cap_s=0.01))
def fail() -> None:
    raise ValueError("no \\x1b[31mred")

app.schedule("nightly", "0 2 * * *", add.request(order="o", n=1))
"""
BOUND_S = 30.0


@dataclass
class Place:
    folder: Path
    url: str
    app: JobQueue

    def jobq(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, env={"JOBQ_DATABASE_URL": self.url})

    def done(self, *arguments: str) -> str:
        ran = self.jobq(*arguments)
        assert ran.exit_code == 0, (ran.stdout, ran.stderr, ran.exception)
        return ran.stdout

    def refusal(self, *arguments: str) -> str:
        """One line on stderr, exit code 1."""
        ran = self.jobq(*arguments)
        assert ran.exit_code == 1, ran
        assert ran.stderr.startswith("Error: "), ran.stderr
        assert ran.stderr.count("\n") == 1, ran.stderr
        return ran.stderr

    def read(self, *arguments: str) -> Any:
        return json.loads(self.done(*arguments, "--json"))


@pytest.fixture
def place(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    (tmp_path / "tasks.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tasks", raising=False)
    app = importlib.import_module("tasks").app
    with app.on(database_url):
        yield Place(tmp_path, database_url, app)


def work(place: Place, *job_ids: int) -> None:
    with place.app.worker(poll_s=0.02):
        for job_id in job_ids:
            place.jobq("jobs", "wait", str(job_id), "--timeout", str(BOUND_S))


def test_from_enqueue_to_its_life(place: Place) -> None:
    job_id = int(place.done("enqueue", "tasks:app", "add", "order=7", "n=3", 'tags=["a"]'))
    (listed,) = place.read("jobs", "list", "--state", "ready")["jobs"]
    assert (listed["id"], listed["args"]) == (job_id, {"order": "7", "n": 3, "tags": ["a"]})
    work(place, job_id)

    assert place.done("jobs", "wait", str(job_id)) == "3\n"
    told = place.read("jobs", "show", str(job_id))
    assert [one["what"] for one in told["happenings"]] == ["enqueued", "claimed", "committed"]
    assert told["record"]["outcome"] == "committed"
    assert told["finalized_by"]
    shown = place.done("jobs", "show", str(job_id))
    assert f"job {job_id} is done" in shown
    assert "commit record" in shown
    assert "finalized by" in shown
    assert "add" in place.done("jobs", "list", "--task", "add", "--text", '"7"')
    assert "add" not in place.done("jobs", "list", "--queue", "bad")


def test_arguments_that_do_not_fit(place: Place) -> None:
    assert "there is no m" in place.refusal("enqueue", "tasks:app", "add", "m=3")
    assert "Expected `int`" in place.refusal("enqueue", "tasks:app", "add", "n=x")
    assert "missing" in place.refusal("enqueue", "tasks:app", "add", "n=3")
    assert "no JSON object" in place.refusal("enqueue", "tasks:app", "add", "--args", "[1]")
    assert "it has add, fail" in place.refusal("enqueue", "tasks:app", "sub")
    assert place.read("jobs", "list")["jobs"] == []


def test_dead_jobs(place: Place) -> None:
    first, second = (int(place.done("enqueue", "tasks:app", "fail")) for _ in range(2))
    ready = int(place.done("enqueue", "tasks:app", "add", "--args", '{"order": "x", "n": 1}'))
    work(place, first, second, ready)

    waited = place.jobq("jobs", "wait", str(first))
    assert waited.exit_code == 1
    assert f"jobq jobs show {first}" in waited.stderr
    assert [one["id"] for one in place.read("dead", "list")] == [first, second]
    listed = place.done("dead", "list", "--error", "ValueError")
    assert "\x1b" not in listed
    assert "no \ufffd[31mred" in listed
    shown = place.done("jobs", "show", str(first))
    assert "\x1b" not in shown
    assert "raise ValueError" in shown

    assert "to run again" in place.done("dead", "retry", str(first))
    assert place.jobq("dead", "retry", str(ready)).exit_code == 1
    assert "1 jobs are to run" in place.done("dead", "retry", "--all", "--task", "fail")
    assert place.jobq("dead", "retry").exit_code == 2
    actions = place.read("audit")
    assert {one["action"] for one in actions} == {"job.retry", "dead.retry"}
    assert "dead.retry" in place.done("audit")


def test_retry_and_cancel(place: Place) -> None:
    later = int(place.done("enqueue", "tasks:app", "add", "order=x", "n=1", "--delay", "12h"))
    assert "to run again" in place.done("jobs", "retry", str(later))
    assert "is cancelled" in place.done("jobs", "cancel", str(later))
    again = place.jobq("jobs", "cancel", str(later))
    assert (again.exit_code, again.stdout) == (1, f"job {later} was cancelled already\n")
    assert place.jobq("jobs", "retry", str(later)).exit_code == 1
    assert "there is no job 999" in place.refusal("jobs", "show", "999")
    assert "there is no job 999" in place.refusal("jobs", "cancel", "999")


def test_waiting_has_an_end(place: Place) -> None:
    job_id = place.done("enqueue", "tasks:app", "fail").strip()
    waited = place.jobq("jobs", "wait", job_id, "--timeout", "0.1")
    assert waited.exit_code == 124
    assert "has not ended within 0.1 s" in waited.stderr


def test_a_job_that_is_nowhere(place: Place) -> None:
    """Somebody deleted the record of a job that was done: nothing says what became of it."""
    job_id = place.done("enqueue", "tasks:app", "add", "order=x", "n=1").strip()
    work(place, int(job_id))
    engine = create_engine(parse_url(place.url))
    with engine.begin() as connection:
        prefix = "jobq_" if engine.name == "sqlite" else "jobq."
        connection.execute(text(f"DELETE FROM {prefix}commit_records WHERE job_id = {job_id}"))
    engine.dispose()
    for command in (["show"], ["wait", "--timeout", str(BOUND_S)], ["retry"]):
        told = place.refusal("jobs", *command, job_id)
        assert told.startswith(f"Error: job {job_id} is in no place"), command
        assert "I5" in told
        assert "jobq doctor" in told


def test_queues(place: Place) -> None:
    place.done("enqueue", "tasks:app", "add", "order=x", "n=1")
    assert place.done("queues", "pause", "sums", "--for", "12h").startswith(
        "queue 'sums' is paused"
    )
    (listed,) = place.read("queues", "list")
    assert (listed["name"], listed["ready"]) == ("sums", 1)
    assert listed["resumes_at"] is not None
    assert "sums" in place.done("queues", "list")
    assert "goes on" in place.done("queues", "resume", "sums")
    assert place.jobq("queues", "resume", "sums").exit_code == 1
    no_zone = place.jobq("queues", "pause", "sums", "--until", "2100-01-01T00:00")
    assert no_zone.exit_code == 2
    assert "has no time zone" in no_zone.stderr


def test_schedules_and_workers(place: Place) -> None:
    with place.app.worker(queues=["none"], poll_s=0.02):
        wait_for(lambda: bool(place.read("schedules", "list")), "the schedule to be declared")
        schedules = place.read("schedules", "list")
        (worker,) = place.read("workers")
        assert (worker["state"], worker["about"]["queues"]) == ("alive", ["none"])
        assert "alive" in place.done("workers")
    assert place.read("workers") == []
    assert place.read("workers", "--all")[0]["state"] == "stopped"

    assert schedules[0]["schedule"]["name"] == "nightly"
    assert "nightly" in place.done("schedules", "list")
    assert place.done("schedules", "run", "nightly").endswith("is enqueued\n")
    place.done("schedules", "pause", "nightly")
    assert place.read("schedules", "list")[0]["paused_at"] is not None
    assert "next 2" in place.done("schedules", "resume", "nightly")
    assert "there is no schedule 'hourly'" in place.refusal("schedules", "run", "hourly")
    assert [one["action"] for one in place.read("audit")] == [
        *("schedule.resume", "schedule.pause", "schedule.run")
    ]


def test_reconcile(place: Place) -> None:
    job_id = int(place.done("enqueue", "tasks:app", "add", "order=x", "n=1"))
    database = place.app.database
    database.run(
        database.store.claim(
            worker="crashed", queues=["sums"], tasks=["add"], limit=1, lease_s=0.05
        )
    )

    def is_expired() -> bool:
        lease = place.app.jobs.life(job_id).lease
        return lease is not None and lease.is_expired

    wait_for(is_expired, "the lease's end")
    counts = place.read("reconcile")
    assert counts == {"healed": 0, "retried": 1, "dead": 0, "parked": 0}
    assert place.read("jobs", "show", str(job_id))["status"]["state"] == "scheduled"
    assert place.done("reconcile").startswith("0 finalized")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(tmp_path: Path, shell: str) -> None:
    script = jobq(tmp_path, "completion", shell)
    assert "_JOBQ_COMPLETE" in script.stdout
    completed = subprocess.run(
        [sys.executable, "-m", "jobq"],
        env={
            **os.environ,
            "_JOBQ_COMPLETE": "bash_complete",
            "COMP_WORDS": "jobq jobs li",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert completed.stdout == "plain,list\n"


def test_colours_are_for_terminals_that_want_them(place: Place) -> None:
    job_id = place.done("enqueue", "tasks:app", "fail").strip()

    def on_a_terminal(**environment: str) -> bytes:
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "jobq", "jobs", "show", job_id],
            env={
                **{k: v for k, v in os.environ.items() if k != "NO_COLOR"},
                "JOBQ_DATABASE_URL": place.url,
                **environment,
            },
            stdout=theirs,
        ) as process:
            os.close(theirs)
            shown = b""
            try:
                while read := os.read(ours, 65_536):
                    shown += read
            except OSError:
                pass  # the terminal is gone with its process
            os.close(ours)
            assert process.wait() == 0
        return shown

    assert b"\x1b[1m" in on_a_terminal()
    assert b"\x1b" not in on_a_terminal(NO_COLOR="1")


def test_durations_are_short() -> None:
    assert [duration(s) for s in (0, 59, 61, 3_600, 90_061)] == [
        *("0s", "59s", "1m 1s", "1h", "1d 1h")
    ]

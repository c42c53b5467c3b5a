"""Handlers in processes: their effects and results are as ever, and their deaths are their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from jobq import AttemptEnd, InvalidOption, InvalidTask, JobFailed, JobQueue, Retry, State
from tests.worker import cpu
from tests.worker.conftest import BOUND_S, Site, wait_for


@pytest.fixture
def app(site: Site) -> Iterator[JobQueue]:
    cpu.app._given_url = site.url
    cpu.app.close()
    for task in cpu.app._tasks.values():
        task.retry = Retry(base_s=0.01, cap_s=0.02)
    yield cpu.app
    cpu.app.close()


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_results_effects_and_failures_come_from_a_child(site: Site, app: JobQueue) -> None:
    squares = app.enqueue_many(cpu.square.request(n) for n in range(10))
    child, charged, failing = cpu.pid.enqueue(), cpu.charge.enqueue(), cpu.fail.enqueue()
    with app.worker(poll_s=0.05, concurrency=2):
        assert [handle.result(BOUND_S) for handle in squares] == [n * n for n in range(10)]
        assert child.result(BOUND_S) != os.getpid()
        charged.wait(BOUND_S)
        with pytest.raises(JobFailed, match="in a child"):
            failing.result(BOUND_S)
    assert site.charged() == [charged.id]
    assert [one.end for one in app.attempts(failing.id)] == [AttemptEnd.FAILED] * 2


def test_a_killed_child_costs_its_job_an_attempt_and_no_effect(
    site: Site, app: JobQueue, tmp_path: Path
) -> None:
    job = cpu.die_once.enqueue(mark=str(tmp_path / "mark"))
    others = app.enqueue_many(cpu.square.request(n) for n in range(5))
    with app.worker(poll_s=0.05, concurrency=2):
        assert job.wait(BOUND_S).state in (State.COMMITTED, State.DONE)
        assert [handle.result(BOUND_S) for handle in others] == [n * n for n in range(5)]
    assert site.charged() == [job.id]
    (attempt,) = app.attempts(job.id)
    assert attempt.error is not None
    assert attempt.error.type == "jobq.ProcessDied"
    assert "killed by SIGKILL" in attempt.error.message


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux offers the limit")
def test_a_job_that_takes_too_much_memory_fails_alone(app: JobQueue) -> None:
    greedy, modest = cpu.eat.enqueue(mebibytes=512), cpu.eat.enqueue(mebibytes=8)
    with app.worker(poll_s=0.05, concurrency=1):
        assert modest.result(BOUND_S) == 8 * 2**20
        with pytest.raises(JobFailed, match="MemoryError"):
            greedy.result(BOUND_S)


def test_a_cancelled_job_is_killed(site: Site, app: JobQueue, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    job = cpu.spin.enqueue(mark=str(mark))
    with app.worker(poll_s=0.05, lease_s=1.0, concurrency=1):
        wait_for(lambda: mark.exists() and mark.read_text(), "the handler to run", site)
        progress = job.progress()
        assert progress is not None
        assert progress.note == "spinning"
        assert job.cancel()
        child = int(mark.read_text())
        wait_for(lambda: not is_alive(child), "the child to be killed", site)
        assert cpu.square.enqueue(n=3).result(BOUND_S) == 9, "another child takes its place"
    assert job.status().state is State.CANCELLED


def test_a_stopping_worker_leaves_no_child_behind(
    site: Site, app: JobQueue, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    job = cpu.spin.enqueue(mark=str(mark))
    with app.worker(poll_s=0.05, grace_s=0, concurrency=1):
        wait_for(lambda: mark.exists() and mark.read_text(), "the handler to run", site)
    wait_for(lambda: not is_alive(int(mark.read_text())), "the child to end", site)
    assert [one.end for one in app.attempts(job.id)] == [AttemptEnd.INTERRUPTED]


def test_a_task_that_another_process_cannot_find_says_so(site: Site) -> None:
    app = JobQueue(site.url)

    @app.task(process=True, max_attempts=1)
    def inner() -> None: ...

    job = inner.enqueue()
    with app.worker(poll_s=0.05), pytest.raises(JobFailed, match="at the module's top level"):
        job.result(BOUND_S)
    app.close()


def test_what_a_process_cannot_be_is_refused(site: Site) -> None:
    app = JobQueue(site.url)

    async def coroutine() -> None: ...

    def plain() -> None: ...

    with pytest.raises(InvalidTask, match="for plain `def` handlers"):
        app.task(process=True)(coroutine)
    with pytest.raises(InvalidOption, match="process=True as well"):
        app.task(memory_mb=5)(plain)
    with pytest.raises(InvalidOption, match="use 1 or more"):
        app.task(process=True, memory_mb=0)(plain)
    app.close()

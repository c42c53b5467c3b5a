"""When, where and how often a job runs: `@app.task(...)` and `task.using(...)`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from jobq import InvalidOption, JobQueue, Retention, Retry, State, Task, WorkerOptions


def remind(customer: str) -> None: ...


@pytest.fixture
def task(app: JobQueue) -> Task[..., Any]:
    return app.task(queue="mail", priority=3, max_attempts=7)(remind)


def test_a_job_has_its_tasks_options_unless_told_otherwise(task: Task[..., Any]) -> None:
    status = task.enqueue("Ann").status()
    assert (status.queue, status.priority, status.max_attempts) == ("mail", 3, 7)
    assert (status.state, status.attempts) == (State.READY, 0)

    other = task.using(queue="slow", priority=-1, max_attempts=1)
    status = other.enqueue("Ann").status()
    assert (status.queue, status.priority, status.max_attempts) == ("slow", -1, 1)
    assert task.enqueue("Ann").status().queue == "mail", "the task itself is as it was"


def test_using_adds_to_what_was_used(task: Task[..., Any]) -> None:
    status = task.using(priority=0).using(queue="slow").enqueue("Ann").status()
    assert (status.queue, status.priority) == ("slow", 0)


@pytest.mark.parametrize("delay", [3_600, 3_600.0, timedelta(hours=1)])
def test_a_delay_counts_by_the_databases_clock(
    task: Task[..., Any], delay: float | timedelta
) -> None:
    status = task.using(delay=delay).enqueue("Ann").status()
    assert status.state is State.SCHEDULED
    assert status.due_at is not None
    late = status.due_at - status.created_at - timedelta(hours=1)
    assert abs(late) < timedelta(milliseconds=2)


def test_no_delay_is_now(task: Task[..., Any]) -> None:
    assert task.using(delay=0).enqueue("Ann").status().state is State.READY


def test_run_at_is_a_point_in_time_in_any_zone(task: Task[..., Any]) -> None:
    moment = datetime(2100, 1, 1, 12, 30, tzinfo=timezone(timedelta(hours=-8)))
    status = task.using(run_at=moment).enqueue("Ann").status()
    assert status.state is State.SCHEDULED
    assert status.due_at == moment
    assert status.due_at is not None
    assert status.due_at.tzinfo is UTC


def test_a_run_at_in_the_past_is_now(task: Task[..., Any]) -> None:
    moment = datetime(1999, 1, 1, tzinfo=UTC)
    assert task.using(run_at=moment).enqueue("Ann").status().state is State.READY


NAIVE = datetime(2100, 1, 1)  # noqa: DTZ001
AWARE = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"run_at": NAIVE}, "run_at 2100-01-01 00:00:00 has no time zone: pass an aware datetime"),
        ({"run_at": AWARE, "delay": 5}, "run_at and delay both say when"),
        ({"delay": -1}, "delay -1 s: a delay is a finite time from now"),
        ({"delay": timedelta(seconds=-1)}, "a delay is a finite time"),
        ({"delay": float("nan")}, "a delay is a finite time"),
        ({"delay": float("inf")}, "a delay is a finite time"),
        ({"priority": 32_768}, "priority 32768: use -32768 to 32767; smaller runs first"),
        ({"priority": -32_769}, "smaller runs first"),
        ({"max_attempts": 0}, "max_attempts 0: use 1 to 32767"),
        ({"max_attempts": 32_768}, "use 1 to 32767"),
        ({"queue": ""}, "a name is 1 to 200 printable characters"),
        ({"queue": "a\x00b"}, "printable"),
        ({"queue": "\ud800"}, "printable"),
        ({"queue": "q" * 201}, "1 to 200"),
    ],
)
def test_an_option_out_of_range_is_refused(
    nowhere: JobQueue, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidOption, match=told):
        nowhere.task(remind).using(**options)
    if not options.keys() & {"run_at", "delay"}:
        with pytest.raises(InvalidOption, match=told):
            nowhere.task(**options)


def test_the_longest_name_in_the_widest_letters_fits_a_key(task: Task[..., Any]) -> None:
    """PostgreSQL refuses a key of 2,700 bytes, and `queue` is part of one."""
    queue = "\N{GRINNING FACE}" * 200
    assert task.using(queue=queue).enqueue("Ann").status().queue == queue


@pytest.mark.parametrize("limits", [(-1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0)])
def test_a_backoff_that_makes_no_sense(limits: tuple[float, float]) -> None:
    with pytest.raises(InvalidOption, match="0 <= base_s <= cap_s"):
        Retry(*limits)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"concurrency": 0}, "concurrency is 0: use 1 or more"),
        ({"prefetch": -1}, "prefetch is -1: use 0 or more"),
        ({"lease_s": 0.1}, "lease_s is 0.1: use 0.5 or more"),
        ({"lease_s": float("nan")}, "lease_s is nan"),
        ({"lease_s": float("inf")}, "lease_s is infinite"),
        ({"grace_s": -1}, "grace_s is -1"),
        ({"poll_s": 0}, "poll_s is 0"),
        ({"reconcile_s": 0}, "reconcile_s is 0: use more than 0"),
        ({"queues": []}, "queues is empty"),
        ({"queues": "mail"}, "queues is the text 'mail': pass a list of names"),
    ],
)
def test_a_workers_setting_out_of_range(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidOption, match=told):
        WorkerOptions(**settings)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_pruning_interval_is_a_time_or_never(seconds: float) -> None:
    with pytest.raises(InvalidOption, match="None not to prune"):
        WorkerOptions(prune_s=seconds)
    assert WorkerOptions(prune_s=None).prune_s is None


def test_a_task_keeps_its_jobs_for_its_own_time_or_its_queues() -> None:
    week, hour = Retention(), Retention(committed_s=3600)
    app = JobQueue("sqlite:///nowhere.db", keep=hour)
    assert app.task(name="a")(remind).keep == hour
    own = app.task(name="b", keep=week)(remind)
    assert own.keep == week
    assert own.using(priority=1).keep == week
    assert JobQueue("sqlite:///nowhere.db").task(remind).keep == week


def test_a_misspelt_setting(nowhere: JobQueue) -> None:
    nowhere.task(remind)
    with pytest.raises(InvalidOption, match=r"worker settings: .*'concurency'"):
        nowhere.worker(concurency=3)  # type: ignore[call-arg]

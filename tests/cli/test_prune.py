"""`jobq prune`: by the tasks' own times or by one age, for real or to see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobq.failure_modes.shop import Shop
from jobq.protocol.retention import DAY_S
from tests.cli.test_commands import jobq, refusal
from tests.shops import shop

__all__ = ["shop"]

APP = """
from jobq import JobQueue, Retention
app = JobQueue()

@app.task(name="mail")
def mail() -> None: ...

@app.task(name="bill", keep=Retention(committed_s=None))
def bill() -> None: ...
"""


def aged(shop: Shop, task: str, outcome: str, age_s: float) -> int:
    job_id = shop.enqueue(task=task, max_attempts=1)
    if outcome == "cancelled":
        shop.cancel(job_id)
    else:
        (claimed,) = shop.claim("A", tasks=[task])
        if outcome == "committed":
            shop.complete(claimed.lease)
        else:
            shop.fail(claimed.lease)
    shop.grow_old(job_id, age_s=age_s)
    return job_id


def left(shop: Shop) -> list[int]:
    return sorted(job_id for (job_id,) in shop.sql("SELECT id FROM jobq.jobs"))


def test_by_the_times_of_an_apps_tasks(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(APP)
    aged(shop, "mail", "committed", 8 * DAY_S)
    kept = [
        aged(shop, "mail", "dead", 8 * DAY_S),
        aged(shop, "bill", "committed", 800 * DAY_S),
        aged(shop, "others", "committed", 800 * DAY_S),
    ]

    done = jobq(tmp_path, "prune", "tasks:app", url=shop.url)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "pruned jobs: 1 committed, 0 dead, 0 cancelled; workers: 0\n"
    assert done.stderr == "", "no progress where nobody looks"
    assert left(shop) == kept


def test_by_one_age_and_some_outcomes(shop: Shop, tmp_path: Path) -> None:
    committed = aged(shop, "mail", "committed", 3 * DAY_S)
    aged(shop, "bill", "dead", 3 * DAY_S)
    aged(shop, "bill", "cancelled", 3 * DAY_S)
    young = aged(shop, "bill", "dead", DAY_S)
    command = ["prune", "--older-than", "48h", "--outcome", "dead", "--outcome", "cancelled"]
    told = {"jobs": {"committed": 0, "dead": 1, "cancelled": 1}, "workers": 0}

    looked = jobq(tmp_path, *command, "--json", "--dry-run", "--database-url", shop.url)
    assert json.loads(looked.stdout) == {"is_dry_run": True, **told}, looked.stderr
    assert len(left(shop)) == 4

    done = jobq(tmp_path, *command, "--json", url=shop.url)
    assert json.loads(done.stdout) == {"is_dry_run": False, **told}, done.stderr
    assert left(shop) == [committed, young]


def test_until_none_is_left(shop: Shop, tmp_path: Path) -> None:
    jobs = shop.enqueue_many(2_500)
    moment = "0" if shop.is_sqlite else "'2000-01-01'"
    shop.sql("DELETE FROM jobq.ready")
    shop.sql(f"UPDATE jobq.jobs SET created_at = {moment}")
    shop.sql(
        "INSERT INTO jobq.commit_records (shard, job_id, outcome, token, recorded_at) "
        f"SELECT 0, id, 'cancelled', 0, {moment} FROM jobq.jobs"
    )
    for worker in ("here", "gone"):
        shop.heartbeat(worker)
    shop.sql(f"UPDATE jobq.workers SET seen_at = {moment} WHERE id = 'gone'")

    looked = jobq(tmp_path, "prune", "--older-than", "1h", "--dry-run", url=shop.url)
    told = f"prune jobs: 0 committed, 0 dead, {len(jobs)} cancelled; workers: 1"
    assert told in looked.stdout, looked.stderr
    done = jobq(tmp_path, "prune", "--older-than", "1h", url=shop.url)
    assert done.stdout == looked.stdout.replace("would prune", "pruned")
    assert left(shop) == []
    assert shop.sql("SELECT id FROM jobq.workers") == [("here",)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "say how long jobs are kept"),
        (["tasks:app", "--older-than", "7d"], "in one way"),
        (["--older-than", "soon"], "as in 30d or 12h"),
        (["--older-than", "7"], "as in 30d or 12h"),
        (["--older-than", "7d", "--outcome", "done"], "'done' is not one of"),
        (["tasks:app", "--database-url", "sqlite:///other.db"], "leave out --database-url"),
    ],
)
def test_what_cannot_be_meant(
    tmp_path: Path, sqlite_url: str, arguments: list[str], told: str
) -> None:
    (tmp_path / "tasks.py").write_text(APP)
    done = jobq(tmp_path, "prune", *arguments, url=sqlite_url)
    assert done.returncode == 2
    assert told in done.stderr


def test_an_age_that_is_too_short_is_refused(tmp_path: Path, sqlite_url: str) -> None:
    assert "Use 3600 to" in refusal(jobq(tmp_path, "prune", "--older-than", "59m", url=sqlite_url))

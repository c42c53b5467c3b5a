"""`JobQueue.on`: the same app and its tasks, on another database for a block."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobq import InvalidDatabaseURL, JobQueue, NotMigrated

app = JobQueue()


@app.task
def remind(customer: str) -> None: ...


def test_a_module_level_app_works_on_another_database_for_a_block(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOBQ_DATABASE_URL", raising=False)

    with app.on(database_url) as same:
        assert same is app
        job = remind.enqueue(customer="Ada")
        assert job.status().task == remind.name

    with pytest.raises(InvalidDatabaseURL):
        remind.enqueue(customer="Ada")


def test_blocks_nest_and_give_back_what_they_found_when_they_fail(
    sqlite_url: str, postgres_url: str
) -> None:
    with app.on(sqlite_url):
        remind.enqueue(customer="Ada")
        with pytest.raises(ZeroDivisionError), app.on(postgres_url):
            remind.enqueue(customer="Ada")
            raise ZeroDivisionError
        assert app.url.get_backend_name() == "sqlite"
        assert remind.enqueue(customer="Ada").id == 2


def test_what_is_wrong_with_the_other_database_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidDatabaseURL), app.on("mysql://localhost/shop"):
        pytest.fail("the block was entered")
    with app.on(f"sqlite:///{tmp_path}/nowhere.db"), pytest.raises(NotMigrated):
        remind.enqueue(customer="Ada")

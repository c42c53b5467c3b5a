"""Unique jobs by the task's own words."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from jobq import InvalidOption, InvalidTask, JobExists, JobQueue, Unique


@pytest.fixture
def app(database_url: str) -> JobQueue:
    return JobQueue(database_url)


def test_a_job_is_unique_by_the_arguments_that_its_task_names(app: JobQueue) -> None:
    @app.task(name="invoice", unique=Unique(by=["order_id"]))
    def invoice(order_id: int, note: str = "") -> None: ...

    first = invoice.enqueue(order_id=7)
    again = invoice.enqueue(order_id=7, note="again")
    other = invoice.enqueue(order_id=8)
    app.close()

    assert first.is_new
    assert (again.id, again.is_new) == (first.id, False)
    assert other.is_new


def test_all_arguments_count_and_defaults_are_filled_in(app: JobQueue) -> None:
    @app.task(name="invoice", unique=Unique())
    def invoice(order_id: int, note: str = "none") -> None: ...

    handles = app.enqueue_many(
        [
            invoice.request(order_id=7),
            invoice.request(7, note="none"),
            invoice.request(note="some", order_id=7),
        ]
    )
    app.close()

    assert [handle.is_new for handle in handles] == [True, False, True]


def test_a_key_of_ones_own_counts_within_its_task(app: JobQueue) -> None:
    @app.task(name="one")
    def one(n: int) -> None: ...

    @app.task(name="two")
    def two(n: int) -> None: ...

    key = Unique(key="today")
    assert one.using(unique=key).enqueue(1).is_new
    assert not one.using(unique=key).enqueue(2).is_new
    assert two.using(unique=key).enqueue(1).is_new
    assert one.enqueue(1).is_new
    app.close()


def test_a_transaction_that_rolls_back_leaves_the_key(app: JobQueue, database_url: str) -> None:
    @app.task(name="one", unique=Unique(on_conflict="raise"))
    def one() -> None: ...

    engine = create_engine(database_url)
    with Session(engine) as session:
        one.enqueue_in(session)
        with pytest.raises(JobExists, match="is there already"):
            one.enqueue_in(session)
        session.rollback()
    engine.dispose()

    assert one.enqueue().is_new
    app.close()


def test_it_names_arguments_of_its_task(app: JobQueue) -> None:
    with pytest.raises(InvalidTask, match="unique names 'order'"):

        @app.task(name="wrong", unique=Unique(by=["order"]))
        def wrong(order_id: int) -> None: ...

    @app.task(name="right")
    def right(order_id: int) -> None: ...

    with pytest.raises(InvalidTask, match="unique names 'order'"):
        right.using(unique=Unique(by=["order"]))


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ({"by": "order_id"}, "list of argument names"),
        ({"by": ["order_id"], "key": "a"}, "give one of them"),
        ({"key": ""}, "key is empty"),
        ({"within_s": 0}, "more than 0 seconds"),
        ({"until": "done"}, "use 'claimed', 'ended', 'pruned'"),
        ({"on_conflict": "ignore"}, "use 'return', 'raise', 'replace', 'move'"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object], cause: str) -> None:
    with pytest.raises(InvalidOption, match=cause):
        Unique(**wrong)  # type: ignore[arg-type]


def test_a_long_key_is_hashed_and_still_told_apart() -> None:
    keys = {Unique().request("task", {"text": "x" * 3000 + end}).key for end in "ab"}

    assert len(keys) == 2
    assert max(map(len, keys)) < 200

"""Expressions that both backends run, and whose rows both tell alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Executable, delete, literal, select, update

from jobq.failure_modes.shop import Shop
from jobq.store.portable import now, seconds_later
from jobq.store.step import Row

LONG_AGO = datetime(2020, 2, 2, 12, 0, 0, 123_000, tzinfo=UTC)


def run(shop: Shop, expression: Executable) -> list[Row]:
    return shop.database.run(shop.database.store.portable.run(expression))


def add_workers(shop: Shop, *names: str) -> None:
    portable = shop.database.store.portable
    table = portable.tables.workers
    for name in names:
        run(shop, portable.insert(table).values(id=name, started_at=LONG_AGO, seen_at=now()))


def test_times_come_back_as_they_were_written(shop: Shop) -> None:
    add_workers(shop, "one")
    workers = shop.database.store.portable.tables.workers

    ((name, started_at, seen_at),) = run(
        shop, select(workers.c.id, workers.c.started_at, workers.c.seen_at)
    )

    assert (name, started_at) == ("one", LONG_AGO)
    assert abs(seen_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_seconds_are_added_to_either_clock(shop: Shop) -> None:
    ((moved,),) = run(
        shop, select(seconds_later(literal(LONG_AGO, now().type), literal(1.5)).label("moved"))
    )

    assert moved == LONG_AGO + timedelta(seconds=1.5)


def test_a_list_names_its_rows(shop: Shop) -> None:
    add_workers(shop, "one", "two", "three")
    workers = shop.database.store.portable.tables.workers
    these = workers.c.id.in_(["one", "three", "nobody"])

    gone = run(shop, delete(workers).where(these).returning(workers.c.id, workers.c.started_at))

    assert set(gone) == {("one", LONG_AGO), ("three", LONG_AGO)}
    assert run(shop, select(workers.c.id)) == [("two",)]
    assert run(shop, select(workers.c.id).where(workers.c.id.in_([]))) == []


def test_a_row_that_is_there_is_locked_and_updated(shop: Shop) -> None:
    add_workers(shop, "one")
    portable = shop.database.store.portable
    workers = portable.tables.workers
    again = portable.insert(workers).values(id="one", started_at=now(), seen_at=now())

    assert run(shop, again.on_conflict_do_nothing().returning(workers.c.id)) == []
    told = run(
        shop,
        again.on_conflict_do_update(
            index_elements=["shard", "id"], set_={"started_at": again.excluded.started_at}
        ).returning(workers.c.started_at > LONG_AGO),
    )
    assert [bool(is_later) for (is_later,) in told] == [True]
    locked = select(workers.c.id).with_for_update(skip_locked=True)
    assert run(shop, locked) == [("one",)]
    assert run(shop, update(workers).values(stopped_at=None)) == []

"""A result and its commit record are one: both are there, or neither, and the first stands."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
import pytest

from jobq import EffectRolledBack, State
from jobq.commit import commit_effect_idempotent
from jobq.failure_modes.shop import Shop, charge
from jobq.protocol.progress import Told
from jobq.protocol.values import Lease
from jobq.store.base import NOTHING
from jobq.store.progress import progress_of, report_progress
from jobq.worker.reports import Reports, Returned


def commit(shop: Shop, lease: Lease, result: str) -> None:
    with commit_effect_idempotent(
        shop.database, lease, shop.driver, result=lambda: result
    ) as connection:
        charge(connection, lease, "A")


def deliver(shop: Shop, *returned: Returned) -> list[Lease]:
    reports = Reports()
    for report in returned:
        reports.add(report)
    return shop.database.run(reports.exchange(shop.database.store, NOTHING)).unrecorded


def test_a_result_survives_a_crash_after_the_commit(shop: Shop) -> None:
    shop.enqueue()
    a = shop.claim_one("A")
    commit(shop, a, "7")
    shop.recover(a)
    status = shop.job(a.job_id)
    assert (status.state, status.result) == (State.DONE, "7")


def test_a_failed_effect_leaves_no_result(shop: Shop) -> None:
    shop.enqueue()
    a = shop.claim_one("A")
    with (
        contextlib.suppress(KeyError),
        commit_effect_idempotent(shop.database, a, shop.driver, result=lambda: "7"),
    ):
        raise KeyError
    assert shop.job(a.job_id).result is None
    commit(shop, a, "8")
    assert shop.job(a.job_id).result == "8"
    shop.finalize(a)


def test_of_a_group_only_what_was_recorded_keeps_its_result(shop: Shop) -> None:
    for _ in range(3):
        shop.enqueue()
    zombie, plain, other = (claimed.lease for claimed in shop.claim("A", 3))
    shop.recover(zombie)
    again = shop.claim_one("B")
    assert deliver(shop, Returned(again, '"B"')) == []
    unrecorded = deliver(shop, Returned(zombie, '"A"'), Returned(plain), Returned(other, "[1]"))
    assert unrecorded == [zombie]
    assert [shop.job(lease.job_id).result for lease in (zombie, plain, other)] == [
        '"B"',
        None,
        "[1]",
    ]


def test_a_transaction_that_failed_is_named_with_a_result_too(postgres_shop: Shop) -> None:
    shop = postgres_shop
    shop.enqueue()
    a = shop.claim_one("A")

    def swallow(connection: psycopg.Connection[Any]) -> None:
        with contextlib.suppress(psycopg.Error):
            connection.execute("SELECT 1/0")

    with (
        pytest.raises(EffectRolledBack),
        commit_effect_idempotent(
            shop.database, a, psycopg.Connection, result=lambda: "7"
        ) as connection,
    ):
        swallow(connection)
    assert shop.state(a.job_id) is State.LEASED


def test_progress_is_written_by_who_holds_the_lease(shop: Shop) -> None:
    shop.enqueue()
    portable = shop.database.store.portable
    zombie = shop.claim_one("A")
    shop.database.run(report_progress(portable, {zombie: Told(0.5, None)}))
    shop.recover(zombie)
    live = shop.claim_one("B")
    shop.database.run(
        report_progress(portable, {zombie: Told(0.9, "late"), live: Told(0.1, "anew")})
    )
    progress = shop.database.run(progress_of(portable, live.job_id))
    assert progress is not None
    assert (progress.fraction, progress.note, progress.attempt) == (0.1, "anew", 2)
    shop.complete(live)

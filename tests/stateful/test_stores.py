"""Both stores do what the model does, whatever the order of the steps.

One step at a time: what happens *between* the statements of two steps is the explorer's. This one
goes for long lives, groups of reports and zombies of any age. `JOBQ_STATEFUL_EXAMPLES=2000` looks
at other examples each time, and at so many.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from jobq.failure_modes.naive import naive_store
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.weakened import by
from jobq.store.step import Step
from tests.stateful.machine import QueueMachine

ASKED = os.environ.get("JOBQ_STATEFUL_EXAMPLES")
SETTINGS = settings(
    max_examples=int(ASKED or 20),
    stateful_step_count=40,
    derandomize=ASKED is None,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

pytestmark = pytest.mark.timeout(0 if ASKED else 120)


MANY = settings(SETTINGS, max_examples=int(ASKED or 100))


def run(shop: Shop, how: settings = SETTINGS) -> None:
    class OnShop(QueueMachine):
        def __init__(self) -> None:
            super().__init__(shop)

    run_state_machine_as_test(OnShop, settings=how)


def test_postgres_does_what_the_model_does(postgres_shop: Shop) -> None:
    run(postgres_shop)


def test_sqlite_does_what_the_model_does(sqlite_shop: Shop) -> None:
    run(sqlite_shop, MANY)


class NoRecovery:
    """Expired leases are nobody's business."""

    def _lock_expired(self, limit: int) -> Step[list[Any]]:
        yield from ()
        return []


@pytest.mark.parametrize("weaken", [naive_store, by(NoRecovery)], ids=["naive", "no recovery"])
def test_a_store_that_lacks_a_guard_is_caught(
    sqlite_shop: Shop, weaken: Callable[[Any], Any]
) -> None:
    sqlite_shop.weaken(weaken)
    found_is_enough = settings(MANY, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run(sqlite_shop, found_is_enough)

"""The retry budget: what failures cost, what successes pay, and how debt spreads the retries."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobq.errors import InvalidOption
from jobq.protocol.budget import RetryBudget
from jobq.protocol.retry import Budget, Retry

RETRY = Retry(base_s=2.0, cap_s=3600.0)

RESERVE, SHARE = Budget().reserve, Budget().share


def test_the_reserve_is_spent_at_the_usual_delays() -> None:
    budget = RetryBudget(RETRY)

    delays_s = [budget.delay_s(1, 0.5) for _ in range(RESERVE)]

    assert delays_s == [RETRY.delay_s(1, 0.5)] * RESERVE
    assert budget.owed == 0


def test_what_is_owed_widens_the_range_of_the_delays() -> None:
    budget = RetryBudget(replace(RETRY, budget=Budget(reserve=10)))
    for _ in range(20):
        budget.delay_s(1, 0.0)
    assert budget.owed == 10

    assert budget.delay_s(1, 0.5) == pytest.approx(RETRY.delay_s(1, 0.5) * (1 + 11 / 10))


@pytest.mark.parametrize("jobs", [100, 1_000, 10_000])
def test_the_retries_that_fall_due_at_once_hardly_grow_with_the_jobs(jobs: int) -> None:
    """Within the first `base_s` seconds after an outage struck them all: without a budget, all."""
    budget = RetryBudget(replace(RETRY, budget=Budget(reserve=10)))
    delays_s = [budget.delay_s(1, (n * 0.618034) % 1) for n in range(jobs)]

    soon = sum(delay_s <= RETRY.base_s for delay_s in delays_s)

    assert soon <= 10 * (2 + math.log(jobs / 10))


def test_a_share_of_the_successes_pays_for_retries() -> None:
    budget = RetryBudget(replace(RETRY, budget=Budget(reserve=10, share=0.1)))
    for _ in range(12):
        budget.delay_s(1, 0.0)
    assert budget.owed == 2

    for _ in range(20):
        budget.succeeded(attempt=1)

    assert budget.owed == pytest.approx(0)


def test_a_job_that_succeeds_at_last_pays_its_own_retries_back() -> None:
    budget = RetryBudget(replace(RETRY, budget=Budget(reserve=1, share=0.1)))
    for attempt in (1, 2, 3):
        budget.delay_s(attempt, 0.0)
    assert budget.owed == 2

    budget.succeeded(attempt=4)

    assert budget.owed == 0
    assert budget.delay_s(1, 0.5) == RETRY.delay_s(1, 0.5)


def test_it_pays_back_no_more_than_that() -> None:
    budget = RetryBudget(replace(RETRY, budget=Budget(reserve=1, share=0.1)))
    for _ in range(5):
        budget.delay_s(1, 0.0)
    assert budget.owed == 4

    budget.succeeded(attempt=3)

    assert budget.owed == pytest.approx(1.9)


@given(
    st.lists(st.integers(0, 5), max_size=60),
    st.integers(1, 70),
    st.floats(0, 1, exclude_max=True),
)
def test_whatever_happened_a_delay_is_between_its_usual_one_and_the_cap(
    history: list[int], attempt: int, draw: float
) -> None:
    budget = RetryBudget(RETRY)
    for what in history:
        if what:
            budget.succeeded(what)
        else:
            budget.delay_s(1, 0.5)

    assert RETRY.delay_s(attempt, draw) <= budget.delay_s(attempt, draw) <= RETRY.cap_s
    assert budget.owed <= max(0, 1 + history.count(0) - RESERVE)
    assert SHARE < 1


def test_without_a_budget_nothing_is_stretched() -> None:
    budget = RetryBudget(replace(RETRY, budget=None))
    delays = [budget.delay_s(1, 0.5) for _ in range(1000)]
    assert set(delays) == {RETRY.delay_s(1, 0.5)}


@pytest.mark.parametrize(("reserve", "share"), [(0, 0.1), (-1, 0.1), (1, -1), (1, math.nan)])
def test_a_budget_that_is_none_is_refused(reserve: int, share: float) -> None:
    with pytest.raises(InvalidOption, match="use finite numbers"):
        Budget(reserve=reserve, share=share)

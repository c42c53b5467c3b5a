"""Rules of a retry policy: the first that fits the error decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from jobq.errors import InvalidOption
from jobq.protocol.budget import RetryBudget
from jobq.protocol.retry import Budget, On, Retry


class RateLimited(Exception):
    def __init__(self, retry_after_s: Any = 7.0) -> None:
        self.retry_after_s = retry_after_s


def after(error: BaseException) -> Any:
    assert isinstance(error, RateLimited)
    return error.retry_after_s


def wrong(value: object) -> Any:
    """What a type checker would have told."""
    return value


RETRY = Retry(
    base_s=2,
    cap_s=100,
    rules=[
        On(UnicodeError, base_s=5),
        On(ValueError, bury=True),
        On((TimeoutError, ConnectionError), delay_s=30, base_s=10, cap_s=40),
        On(RateLimited, snooze=after),
    ],
)


@pytest.mark.parametrize(
    ("error", "rule"),
    [
        (ValueError(), 1),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "no"), 0),
        (ConnectionResetError(), 2),
        (TimeoutError(), 2),
        (RateLimited(), 3),
    ],
)
def test_the_first_rule_that_fits_decides(error: BaseException, rule: int) -> None:
    assert RETRY.rule_for(error) is RETRY.rules[rule]


def test_what_no_rule_names_has_the_policys_own_backoff() -> None:
    assert RETRY.rule_for(KeyError()) is None
    assert RETRY.backoff_of(None).delay_s(3, 0.5) == Retry(2, 100).delay_s(3, 0.5) == 4


def test_a_rule_may_have_its_own_backoff_or_parts_of_it() -> None:
    own, part = RETRY.backoff_of(RETRY.rules[2]), RETRY.backoff_of(RETRY.rules[0])

    assert (own.base_s, own.cap_s) == (10, 40)
    assert (part.base_s, part.cap_s) == (5, 100)


def test_the_least_delay_comes_before_what_is_drawn() -> None:
    budget = RetryBudget(replace(RETRY, budget=Budget(reserve=1)))

    assert budget.delay_s(1, 0.5, RETRY.rules[2]) == 30 + 10 * 0.5
    assert budget.delay_s(1, 0.5, RETRY.rules[2]) == 30 + 10 * 2 * 0.5, "one is owed"
    assert budget.delay_s(1, 0.5) == 2 * 3 * 0.5, "all are paid for out of one budget"


@pytest.mark.parametrize(
    ("given", "delay_s"), [(7, 7.0), (0.5, 0.5), (timedelta(minutes=1), 60.0), (None, None)]
)
def test_a_snooze_is_told_by_the_error(given: Any, delay_s: float | None) -> None:
    assert On(RateLimited, snooze=after).snooze_s(RateLimited(given)) == delay_s


@pytest.mark.parametrize("given", [5, timedelta(seconds=5), lambda _: 5])
def test_a_snooze_may_be_a_time(given: Any) -> None:
    assert On(RateLimited, snooze=given).snooze_s(RateLimited()) == 5


@pytest.mark.parametrize("given", [-1, float("nan"), float("inf")])
def test_a_snooze_to_no_time_is_refused(given: float) -> None:
    with pytest.raises(InvalidOption, match="a delay is a finite time from now"):
        On(RateLimited, snooze=given)
    with pytest.raises(InvalidOption, match="a delay is a finite time from now"):
        On(RateLimited, snooze=after).snooze_s(RateLimited(given))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: On(ValueError), "says nothing"),
        (lambda: On(ValueError, bury=True, snooze=5), "one of bury, snooze or another delay"),
        (lambda: On(ValueError, bury=True, base_s=5), "one of bury, snooze or another delay"),
        (lambda: On(ValueError, snooze=5, cap_s=9), "one of bury, snooze or another delay"),
        (lambda: On(ValueError, delay_s=-1), "a delay is a finite time from now"),
        (lambda: On((), bury=True), "exception classes"),
        (lambda: On(wrong("ValueError"), bury=True), "exception classes"),
        (lambda: On((ValueError, wrong(5)), bury=True), "exception classes"),
        (lambda: Retry(rules=[On(ValueError, base_s=9e9)]), "0 <= base_s <= cap_s"),
        (lambda: Retry(rules=[wrong(ValueError)]), r"On\(\.\.\.\)"),
        (lambda: Retry(rules=wrong(On(ValueError, bury=True))), r"On\(\.\.\.\)"),
    ],
)
def test_rules_that_make_no_sense_are_refused(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(InvalidOption, match=told):
        make()


def test_a_policy_stays_a_value() -> None:
    def policy() -> Retry:
        return Retry(base_s=1, rules=[On(ValueError, bury=True), On(RateLimited, snooze=after)])

    assert policy() == policy()
    assert hash(policy()) == hash(policy())

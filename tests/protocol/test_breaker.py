"""A breaker pauses after failures in a row, and tries one job at a time after that."""

from __future__ import annotations

import pytest

from jobq import Breaker, InvalidOption
from jobq.protocol.breaker import EMPTY_PROBE_S, CircuitBreaker


def paused(at_s: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker(Breaker(failures=3, pause_s=30))
    assert [breaker.failed(at_s) for _ in range(3)] == [False, False, True]
    return breaker


def test_failures_in_a_row_pause_it_and_a_success_between_does_not() -> None:
    breaker = CircuitBreaker(Breaker(failures=3))
    for _ in range(5):
        breaker.failed(0)
        breaker.failed(0)
        breaker.succeeded()
    assert not breaker.is_paused
    assert paused().is_paused


def test_it_is_told_of_once() -> None:
    breaker = paused()
    assert not breaker.failed(1)
    assert breaker.until_probe_s(1) == 29, "a late failure does not prolong the pause"


def test_one_job_is_tried_after_the_pause() -> None:
    breaker = paused()
    assert not breaker.may_probe(29.9)
    assert breaker.may_probe(30)
    breaker.probes(30, has_job=True)
    assert not breaker.may_probe(59.9)
    breaker.succeeded()
    assert not breaker.is_paused


def test_a_trial_that_says_nothing_is_followed_by_another() -> None:
    """It snoozed, was cancelled, lost its lease, or still runs: none of them tells anything."""
    breaker = paused()
    breaker.probes(30, has_job=True)
    assert breaker.until_probe_s(40) == 20
    assert breaker.may_probe(60)


def test_a_failed_trial_pauses_it_again() -> None:
    breaker = paused()
    breaker.probes(30, has_job=True)
    assert not breaker.failed(31)
    assert not breaker.may_probe(60)
    assert breaker.may_probe(61)


def test_a_look_that_finds_no_job_is_repeated_soon() -> None:
    breaker = paused()
    breaker.probes(30, has_job=False)
    assert not breaker.may_probe(30)
    assert breaker.may_probe(30 + EMPTY_PROBE_S)


@pytest.mark.parametrize(("failures", "pause_s"), [(0, 1), (1, 0), (1, float("inf"))])
def test_a_breaker_that_is_none_is_refused(failures: int, pause_s: float) -> None:
    with pytest.raises(InvalidOption, match="use 1 failure or more"):
        Breaker(failures=failures, pause_s=pause_s)

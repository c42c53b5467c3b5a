"""How many jobs a worker leases ahead: as its rate says, within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobq.worker.prefetch import AHEAD_S, MOST, WINDOW_S, Prefetch


def run(prefetch: Prefetch, *, rate: float, windows: int) -> list[int]:
    """So many windows at that many jobs a second."""
    sizes = []
    for number in range(1, windows + 1):
        prefetch.observe(round(rate * WINDOW_S), number * WINDOW_S * 1.001)
        sizes.append(prefetch.ahead)
    return sizes


def test_nothing_is_leased_ahead_of_slow_jobs() -> None:
    assert Prefetch(10, None, 0.0).ahead == 0
    assert run(Prefetch(10, None, 0.0), rate=1, windows=5) == [0] * 5


def test_where_batches_are_made_of_them_as_many_wait_as_there_are_handlers() -> None:
    assert run(Prefetch(10, None, 0.0, gathers=True), rate=1, windows=5) == [10] * 5


def test_quick_jobs_raise_it_by_doubling_up_to_a_tenth_of_a_seconds_work() -> None:
    assert run(Prefetch(10, None, 0.0), rate=1_000, windows=6)[:5] == [10, 20, 40, 80, 100]


def test_it_never_exceeds_the_most() -> None:
    assert run(Prefetch(10, None, 0.0), rate=1e6, windows=10)[-1] == MOST


def test_it_falls_at_once_when_jobs_become_slow() -> None:
    prefetch = Prefetch(10, None, 0.0)
    run(prefetch, rate=1e6, windows=10)

    prefetch.observe(1, 11 * WINDOW_S)
    prefetch.observe(0, 11 * WINDOW_S + 1)

    assert prefetch.ahead == 0


def test_when_the_handlers_hang_it_begins_again_from_none() -> None:
    prefetch = Prefetch(10, None, 0.0)
    run(prefetch, rate=1_000, windows=6)
    prefetch.stall()
    assert prefetch.ahead == 0
    prefetch.observe(0, 1.0)
    assert prefetch.ahead == 0


def test_a_moment_is_too_short_for_a_rate() -> None:
    prefetch = Prefetch(10, None, 0.0)
    prefetch.observe(1_000, WINDOW_S / 2)
    assert prefetch.ahead == 0

    prefetch.observe(0, WINDOW_S)
    assert prefetch.ahead == 10, "it was not forgotten"


@pytest.mark.parametrize("fixed", [0, 7])
def test_a_number_that_was_given_stays(fixed: int) -> None:
    assert set(run(Prefetch(10, fixed, 0.0), rate=1e6, windows=5)) == {fixed}


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(0, 5_000), st.floats(0, 5)), max_size=30),
)
def test_whatever_happens_it_is_within_its_bounds(
    concurrency: int, history: list[tuple[int, float]]
) -> None:
    prefetch, now_s = Prefetch(concurrency, None, 0.0), 0.0
    for ended, pause_s in history:
        now_s += pause_s
        before = prefetch.ahead
        prefetch.observe(ended, now_s)
        assert 0 <= prefetch.ahead <= min(MOST, max(concurrency, 2 * before))
    assert AHEAD_S > WINDOW_S

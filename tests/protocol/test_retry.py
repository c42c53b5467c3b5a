"""The backoff stays within its bounds, whatever it is asked."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobq.errors import InvalidOption
from jobq.protocol.retry import Retry

seconds = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
retries = st.tuples(seconds, seconds).map(lambda pair: Retry(min(pair), max(pair)))
draws = st.floats(min_value=0, max_value=1, exclude_max=True)
attempts = st.integers(1, 200) | st.integers(1, 10**400)


@given(retries, attempts, draws)
def test_delay_is_within_its_ceiling(retry: Retry, attempt: int, draw: float) -> None:
    delay_s = retry.delay_s(attempt, draw)

    # Nothing but a base near zero is still below the cap after so many doublings.
    doublings = min(attempt - 1, 64)
    ceiling_s = min(Fraction(retry.cap_s), Fraction(retry.base_s) * 2**doublings)
    assert 0 <= delay_s <= ceiling_s


@given(retries, attempts, draws, draws)
def test_delay_grows_with_the_draw(retry: Retry, attempt: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert retry.delay_s(attempt, low) <= retry.delay_s(attempt, high)


@given(retries, attempts, draws)
def test_delay_never_shrinks_with_the_attempts(retry: Retry, attempt: int, draw: float) -> None:
    assert retry.delay_s(attempt, draw) <= retry.delay_s(attempt + 1, draw)


@pytest.mark.parametrize(("attempt", "ceiling_s"), [(1, 2), (2, 4), (3, 8), (5, 32), (6, 50)])
def test_ceiling_doubles_up_to_the_cap(attempt: int, ceiling_s: float) -> None:
    assert Retry(base_s=2, cap_s=50).delay_s(attempt, 0.5) == ceiling_s / 2


@pytest.mark.parametrize(
    ("base_s", "cap_s"),
    [(1, math.inf), (math.inf, math.inf), (math.nan, 1), (1, math.nan), (-1, 1), (2, 1)],
)
def test_a_backoff_after_which_no_job_is_due_is_refused(base_s: float, cap_s: float) -> None:
    """Each by name: a random search hardly ever meets a finite base with an infinite cap."""
    with pytest.raises(InvalidOption, match="finite seconds, with 0 <= base_s <= cap_s"):
        Retry(base_s=base_s, cap_s=cap_s)


@given(st.floats(), st.floats())
def test_options_are_refused_unless_they_are_finite_and_in_order(
    base_s: float, cap_s: float
) -> None:
    if math.isfinite(base_s) and math.isfinite(cap_s) and 0 <= base_s <= cap_s:
        assert Retry(base_s, cap_s).delay_s(1, 0.0) == 0
    else:
        with pytest.raises(InvalidOption, match="0 <= base_s <= cap_s"):
            Retry(base_s, cap_s)

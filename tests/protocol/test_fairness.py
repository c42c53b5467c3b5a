"""Every priority but the first has its turn, each as often as the others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobq.protocol.fairness import begin_lower
from jobq.protocol.values import HEAD

PRIORITIES = st.integers(-32_768, 32_767)


def test_queues_with_one_priority_begin_at_the_head() -> None:
    assert begin_lower([("mail", 0)], 0.5) == {}
    assert begin_lower([], 0.5) == {}


@given(st.sets(PRIORITIES, min_size=2, max_size=20), st.floats(0, 1, exclude_max=True))
def test_it_begins_at_a_priority_that_is_there_and_not_the_first(
    priorities: set[int], draw: float
) -> None:
    since = begin_lower([("mail", one) for one in sorted(priorities)], draw)
    assert since["mail"].priority in priorities - {min(priorities)}
    assert since["mail"][1:] == HEAD[1:]


@given(st.sets(PRIORITIES, min_size=2, max_size=20))
def test_each_is_drawn_as_often(priorities: set[int]) -> None:
    lower = len(priorities) - 1
    drawn = [
        begin_lower([("mail", one) for one in priorities], (n + 0.5) / lower)["mail"].priority
        for n in range(lower)
    ]
    assert sorted(drawn) == sorted(priorities)[1:]

"""What a chain and a group are made of, and what becomes of a job that waits for others."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobq import InvalidOption, Outcome, When, chain, group
from jobq.protocol.flow import Verdict, verdict, when_of
from jobq.protocol.values import JobRequest


def request(task: str) -> JobRequest:
    return JobRequest(task, "{}", "default", 0, 5, None, 0.0)


A, B, C, D = map(request, "abcd")
COMMITTED, DEAD, CANCELLED = Outcome.COMMITTED, Outcome.DEAD, Outcome.CANCELLED


def test_a_chain_waits_for_the_stage_before() -> None:
    made = chain(A, [B, C], D)
    assert [one.task for one in made] == ["a", "b", "c", "d"]
    assert [one.after for one in made] == [(), (-1,), (-2,), (-2, -1)]


def test_a_group_is_followed_by_what_fits_its_end() -> None:
    made = group([A, B], then=C, otherwise=D, finally_=A)
    assert [one.after for one in made] == [(), (), (-2, -1), (-3, -2), (-4, -3)]
    assert [one.when for one in made[2:]] == ["done", "failed", "ended"]


def test_two_flows_in_one_list_do_not_mix() -> None:
    first, second = chain(A, B), chain(C, D)
    assert [one.after for one in [*first, *second]] == [(), (-1,), (), (-1,)]


def test_an_existing_prerequisite_stays() -> None:
    (_, second) = chain(A, B._replace(after=(7,)))
    assert second.after == (7, -1)
    with pytest.raises(InvalidOption, match="already"):
        chain(A, B._replace(after=(7,), when="ended"))


def test_empty_stages_and_groups_are_refused() -> None:
    with pytest.raises(InvalidOption, match="no jobs"):
        chain(A, [])
    with pytest.raises(InvalidOption, match="never end"):
        group([], then=A)
    with pytest.raises(InvalidOption, match="use 'done'"):
        when_of("never")
    assert chain() == []


@pytest.mark.parametrize(
    ("when", "outcomes", "is_last", "expected"),
    [
        (When.DONE, [COMMITTED], True, Verdict.RUN),
        (When.DONE, [COMMITTED], False, Verdict.WAIT),
        (When.DONE, [COMMITTED, DEAD], False, Verdict.CANCEL),
        (When.DONE, [CANCELLED], True, Verdict.CANCEL),
        (When.ENDED, [DEAD], False, Verdict.WAIT),
        (When.ENDED, [CANCELLED], True, Verdict.RUN),
        (When.FAILED, [COMMITTED], False, Verdict.WAIT),
        (When.FAILED, [COMMITTED], True, Verdict.CANCEL),
        (When.FAILED, [DEAD], False, Verdict.RUN),
    ],
)
def test_the_verdict(when: When, outcomes: list[Outcome], is_last: bool, expected: Verdict) -> None:
    assert verdict(when, outcomes, is_last=is_last) is expected


@given(
    st.sampled_from(When),
    st.lists(st.sampled_from(Outcome), min_size=1, max_size=6),
    st.data(),
)
def test_the_order_in_which_jobs_end_decides_nothing_but_when(
    when: When, outcomes: list[Outcome], data: st.DataObject
) -> None:
    """However the ends are grouped, exactly one verdict ends the wait, and it is the same."""
    ends = []
    for order in (outcomes, data.draw(st.permutations(outcomes))):
        cut = data.draw(st.integers(1, len(order)))
        groups = [part for part in (order[:cut], order[cut:]) if part]
        made = []
        for number, part in enumerate(groups, 1):
            made.append(verdict(when, part, is_last=number == len(groups)))
            if made[-1] is not Verdict.WAIT:
                break
        ends.append(made[-1])
    assert ends[0] is ends[1]
    assert ends[0] is not Verdict.WAIT


def test_every_condition_is_decided_at_the_last_end() -> None:
    for when, outcome in product(When, Outcome):
        assert verdict(when, [outcome], is_last=True) is not Verdict.WAIT

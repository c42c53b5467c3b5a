"""How long ended jobs are kept: the times a policy takes, and what it says of a job's age."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobq.commit import SETTLE_FOR_S
from jobq.errors import InvalidOption
from jobq.protocol.retention import (
    DAY_S,
    FOREVER,
    MAX_AGE_S,
    MIN_AGE_S,
    Retention,
    RetentionPolicy,
    WalkedJob,
)
from jobq.protocol.states import Outcome
from jobq.worker.options import WorkerOptions

kept = st.none() | st.floats(MIN_AGE_S, MAX_AGE_S)
retentions = st.builds(Retention, kept, kept, kept)
policies = st.builds(
    RetentionPolicy, st.dictionaries(st.sampled_from("abc"), retentions), retentions
)
outcomes = st.sampled_from(Outcome)
ages_s = st.floats(0, 2 * MAX_AGE_S)


def ended(task: str, outcome: Outcome | None, ended_s: float, age_s: float = 0.0) -> WalkedJob:
    return WalkedJob(1, task, max(age_s, ended_s), outcome, ended_s)


def test_the_defaults_keep_a_week_and_the_dead_a_month() -> None:
    week_s, month_s = 7 * DAY_S, 30 * DAY_S
    assert Retention() == Retention(committed_s=week_s, dead_s=month_s, cancelled_s=week_s)


def test_the_least_age_outlasts_whoever_asks_what_became_of_a_commit() -> None:
    assert 10 * (SETTLE_FOR_S + WorkerOptions().lease_s) < MIN_AGE_S


@pytest.mark.parametrize("seconds", [-1, 0, MIN_AGE_S - 0.001, math.nan, math.inf, MAX_AGE_S * 2])
@pytest.mark.parametrize("outcome", Outcome)
def test_a_time_that_is_too_short_or_no_time_is_refused(outcome: Outcome, seconds: float) -> None:
    with pytest.raises(InvalidOption, match=rf"^{outcome.value} jobs kept for .*None for ever$"):
        Retention(**{f"{outcome.value}_s": seconds})


@given(retentions, outcomes, ages_s)
def test_a_job_is_over_from_its_outcomes_time_on(
    retention: Retention, outcome: Outcome, age_s: float
) -> None:
    kept_s = retention.of(outcome)
    is_over = RetentionPolicy({"a": retention}).is_over(ended("a", outcome, age_s))
    assert is_over == (kept_s is not None and age_s >= kept_s)


@given(policies, st.sampled_from("abcd"), ages_s)
def test_a_job_without_a_fate_is_never_over(
    policy: RetentionPolicy, task: str, age_s: float
) -> None:
    assert not policy.is_over(WalkedJob(1, task, age_s, None, 0.0))


@given(policies, st.sampled_from("abcd"), outcomes, ages_s, ages_s)
def test_no_job_younger_than_the_shortest_time_is_over(
    policy: RetentionPolicy, task: str, outcome: Outcome, ended_s: float, age_s: float
) -> None:
    job = ended(task, outcome, ended_s, age_s)
    if policy.shortest_s is None or job.age_s < policy.shortest_s:
        assert not policy.is_over(job)


def test_a_task_that_is_not_named_is_kept_unless_told_otherwise() -> None:
    old = ended("b", Outcome.COMMITTED, 365 * DAY_S)
    assert not RetentionPolicy({"a": Retention()}).is_over(old)
    assert RetentionPolicy({"a": FOREVER}, otherwise=Retention()).is_over(old)


@given(retentions, st.sets(outcomes))
def test_only_some_fates(retention: Retention, some: set[Outcome]) -> None:
    only = retention.only(some)
    for outcome in Outcome:
        assert only.of(outcome) == (retention.of(outcome) if outcome in some else None)

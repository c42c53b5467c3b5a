"""What a step records, and what follows for an attempt that began outside effects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobq.errors import InvalidOption, InvalidStep
from jobq.protocol.decisions import NOT_REPEATED, ending_of, recovered
from jobq.protocol.outside import (
    MAX_RESULT_BYTES,
    OutsideEffects,
    StepResult,
    check_step_name,
    policy_of,
    step_key,
)
from jobq.protocol.states import AttemptEnd, Outcome
from jobq.protocol.values import AttemptError, Lease, LeasedAttempt, Record

ERROR = AttemptError("ValueError", "boom", "Traceback: boom")
BEGUN = [OutsideEffects.AT_MOST_ONCE, OutsideEffects.ASK]
ENDS = [end for end in AttemptEnd if end is not AttemptEnd.HEALED]


@dataclass
class Receipt:
    number: int
    paid_at: datetime


@dataclass
class Refund:
    number: int


def anything() -> Any: ...
def receipt() -> Receipt: ...  # type: ignore[empty-body]
def number() -> int: ...  # type: ignore[empty-body]
def nothing() -> None: ...
async def later() -> Receipt: ...  # type: ignore[empty-body]
def unreadable() -> Receipt | Refund: ...  # type: ignore[empty-body]


@given(
    st.builds(
        LeasedAttempt,
        st.builds(Lease, st.integers(1), st.integers(1)),
        attempt=st.integers(1, 5),
        max_attempts=st.just(5),
        task=st.just("shop.charge"),
        begun_as=st.sampled_from(BEGUN).map(str),
    ),
    st.none() | st.builds(Record, st.integers(1, 100), st.sampled_from(Outcome)),
    st.sampled_from(ENDS),
    st.none() | st.just(0.0),
)
def test_a_begun_attempt_is_repeated_only_by_its_own_word(
    attempt: LeasedAttempt, record: Record | None, end: AttemptEnd, delay_s: float | None
) -> None:
    ending = ending_of(attempt, record, end=end, error=ERROR, retry_delay_s=delay_s)

    is_retried = ending.retry_delay_s is not None
    assert [is_retried, ending.is_dead, ending.is_parked, record is not None].count(True) == 1
    assert not is_retried or end is AttemptEnd.SNOOZED
    assert not ending.is_parked or attempt.begun_as == OutsideEffects.ASK
    told = recovered([ending])
    assert (len(told.parked), len(told.dead)) == (ending.is_parked, ending.is_dead)
    assert told.total == 1
    if ending.is_dead and end is not AttemptEnd.SNOOZED:
        assert attempt.begun_as == OutsideEffects.AT_MOST_ONCE
        assert ending.error is not None
        assert ending.error.message == f"boom; {NOT_REPEATED}"


def test_a_step_has_a_key_of_its_own() -> None:
    job, other = uuid4(), uuid4()
    keys = {step_key(key, name) for key in (job, other) for name in ("charge", "mail")}
    assert len(keys) == 4
    assert step_key(UUID(int=7), "charge") == UUID("ed851289-c101-5a84-8e43-261643e08940")


@pytest.mark.parametrize(
    ("function", "returned"),
    [
        (receipt, Receipt(7, datetime(2026, 1, 2, tzinfo=UTC))),
        (later, Receipt(7, datetime(2026, 1, 2, tzinfo=UTC))),
        (number, 2**62),
        (nothing, None),
        (anything, {"a": [1, 2.5, None, "\x00"]}),
        (partial(anything), {"a": 1}),
        (lambda: 1, 1),
    ],
)
def test_what_is_recorded_comes_back_as_annotated(
    function: Callable[[], Any], returned: object
) -> None:
    result = StepResult("charge", function)
    assert result.decode(result.encode(returned)) == returned


@pytest.mark.parametrize(
    ("function", "returned", "told"),
    [
        (anything, object(), "cannot be recorded as JSON"),
        (anything, "\ud800", "cannot be recorded as JSON"),
        (number, "seven", r"cannot be recorded as JSON \(Expected `int`, got `str`"),
        (anything, "x" * MAX_RESULT_BYTES, "262,146 bytes of JSON, more than 262,144"),
    ],
)
def test_what_cannot_be_recorded_is_told_with_what_follows(
    function: Callable[[], Any], returned: object, told: str
) -> None:
    with pytest.raises(InvalidStep, match=rf"(?s)'charge' ran.*{told}.*next attempt runs"):
        StepResult("charge", function).encode(returned)


def test_a_type_that_json_cannot_give_back_is_refused_before_the_call() -> None:
    with pytest.raises(InvalidStep, match="cannot be read from JSON"):
        StepResult("charge", unreadable)


def test_what_an_older_version_recorded_is_told_as_such() -> None:
    with pytest.raises(InvalidStep, match=r"does not fit .*int.* give the changed step another"):
        StepResult("charge", number).decode('"seven"')


@pytest.mark.parametrize("name", ["", "a\nb", "a\x00", "x" * 201])
def test_a_name_that_cannot_be_a_key_is_refused(name: str) -> None:
    with pytest.raises(InvalidStep, match="1 to 200 printable characters"):
        check_step_name(name)


def test_a_policy_is_one_of_three() -> None:
    assert policy_of("ask") is OutsideEffects.ASK
    with pytest.raises(InvalidOption, match="'at_least_once', 'at_most_once', 'ask'"):
        policy_of("never")  # type: ignore[arg-type]

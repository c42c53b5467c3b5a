"""The pure core, for all values: backoff, decisions, errors as text, arguments as JSON."""

from __future__ import annotations

import inspect
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobq.errors import InvalidArguments, InvalidOption
from jobq.protocol.arguments import Arguments
from jobq.protocol.decisions import ending_of, recovered
from jobq.protocol.failure import (
    MAX_MESSAGE_CHARACTERS,
    MAX_TRACEBACK_CHARACTERS,
    describe_error,
)
from jobq.protocol.retry import Retry
from jobq.protocol.states import AttemptEnd, Outcome
from jobq.protocol.values import AttemptError, Lease, LeasedAttempt, Record

ERROR = AttemptError("ValueError", "boom", "")
draws = st.floats(0, 1, exclude_max=True)


@given(
    base_s=st.floats(0, 1e6), more_s=st.floats(0, 1e9), attempt=st.integers(1, 32_767), draw=draws
)
def test_a_delay_is_between_zero_and_its_ceiling(
    base_s: float, more_s: float, attempt: int, draw: float
) -> None:
    retry = Retry(base_s=base_s, cap_s=base_s + more_s)

    delay_s = retry.delay_s(attempt, draw)

    assert 0 <= delay_s <= retry.cap_s
    if attempt <= 64:
        assert delay_s <= base_s * 2 ** (attempt - 1)
    assert retry.delay_s(attempt, 0) == 0
    assert delay_s <= retry.delay_s(attempt + 1, draw)


@pytest.mark.parametrize(
    ("base_s", "cap_s"),
    [(-1, 1), (2, 1), (math.nan, 1), (1, math.nan), (1, math.inf), (math.inf, math.inf)],
)
def test_a_retry_that_makes_no_sense_is_refused(base_s: float, cap_s: float) -> None:
    with pytest.raises(InvalidOption, match="base_s <= cap_s"):
        Retry(base_s=base_s, cap_s=cap_s)


@given(
    attempt=st.integers(1, 10),
    max_attempts=st.integers(1, 10),
    outcome=st.none() | st.sampled_from(Outcome),
    end=st.sampled_from([AttemptEnd.FAILED, AttemptEnd.EXPIRED, AttemptEnd.INTERRUPTED]),
    delay_s=st.none() | st.floats(0, 100),
)
def test_an_ending_leads_to_exactly_one_place(
    attempt: int, max_attempts: int, outcome: Outcome | None, end: AttemptEnd, delay_s: float | None
) -> None:
    leased = LeasedAttempt(Lease(1, attempt), attempt, max_attempts, "task")
    record = None if outcome is None else Record(attempt, outcome)

    ending = ending_of(leased, record, end=end, error=ERROR, retry_delay_s=delay_s)
    sorted_out = recovered([ending])

    assert [sorted_out.healed, sorted_out.retried, sorted_out.dead].count((1,)) == 1
    if record is not None:
        assert sorted_out.healed == (1,), "a fate is never replaced, nor the job run again"
    elif attempt >= max_attempts or delay_s is None:
        assert sorted_out.dead == (1,)
    else:
        assert sorted_out.retried == (1,)
        assert ending.retry_delay_s == delay_s
    assert (ending.end is AttemptEnd.HEALED) is (outcome is Outcome.COMMITTED)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@given(message=st.text(st.characters(exclude_categories=())) | st.just("x" * 100_000))
def test_any_error_can_be_stored(message: str) -> None:
    described = describe_error(ValueError(message))

    for text in (described.type, described.message, described.traceback):
        text.encode()
        assert "\x00" not in text
    assert len(described.message) <= MAX_MESSAGE_CHARACTERS
    assert len(described.traceback) <= MAX_TRACEBACK_CHARACTERS


def test_an_error_that_cannot_be_printed_is_told_as_such() -> None:
    described = describe_error(Unprintable())

    assert described.type.endswith("Unprintable")
    assert "str() of the exception raised RuntimeError" in described.message


def anything(value: Any) -> None: ...


ANYTHING = Arguments("task", [*inspect.signature(anything).parameters.values()])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
)


@given(value=values)
def test_what_is_enqueued_is_what_arrives(value: Any) -> None:
    encoded = ANYTHING.encode([value], {}, max_bytes=10**6)

    arrived = ANYTHING.decode(encoded)["value"]
    assert repr(arrived) == repr(value), "to the type, and the sign of zero"
    assert json.loads(encoded) == {"value": value}


@given(
    bad=st.sampled_from([math.nan, math.inf, -math.inf, "\x00", "a\x00b", "\ud800", b"", 10**5000])
    | st.binary(),
    wrap=st.sampled_from(
        [lambda v: v, lambda v: [v], lambda v: {"k": v}, lambda v: {"k": [1, {"deep": v}]}]
    ),
)
def test_what_json_or_the_database_cannot_hold_is_refused(bad: Any, wrap: Any) -> None:
    with pytest.raises(InvalidArguments, match="task 'task'"):
        ANYTHING.encode([wrap(bad)], {}, max_bytes=10**6)

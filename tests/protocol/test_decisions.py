"""Every ended attempt has exactly one consequence for its job."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobq.protocol.decisions import Ending, ending_of, recovered
from jobq.protocol.states import AttemptEnd, Outcome
from jobq.protocol.values import AttemptError, Lease, LeasedAttempt, Record

ERROR = AttemptError("ValueError", "boom", "Traceback: boom")


@st.composite
def leased_attempts(draw: st.DrawFn) -> LeasedAttempt:
    max_attempts = draw(st.integers(1, 20))
    return LeasedAttempt(
        Lease(draw(st.integers(1, 2**63 - 1)), draw(st.integers(1, 100))),
        attempt=draw(st.integers(1, max_attempts)),
        max_attempts=max_attempts,
        task="shop.charge",
    )


records = st.none() | st.builds(Record, st.integers(1, 100), st.sampled_from(Outcome))
ends = st.sampled_from([end for end in AttemptEnd if end is not AttemptEnd.HEALED])
delays = st.none() | st.floats(min_value=0, allow_nan=False, allow_infinity=False)


def decide(
    attempt: LeasedAttempt, record: Record | None, end: AttemptEnd, delay_s: float | None
) -> Ending:
    return ending_of(attempt, record, end=end, error=ERROR, retry_delay_s=delay_s)


@given(leased_attempts(), records, ends, delays)
def test_attempt_has_exactly_one_consequence(
    attempt: LeasedAttempt, record: Record | None, end: AttemptEnd, delay_s: float | None
) -> None:
    ending = decide(attempt, record, end, delay_s)

    is_retried = ending.retry_delay_s is not None
    had_its_fate = record is not None
    assert [is_retried, ending.is_dead, had_its_fate].count(True) == 1
    assert ending.attempt is attempt
    assert type(ending.is_dead) is bool
    if is_retried:
        assert ending.retry_delay_s == delay_s, "a delay of 0 s is a retry too"
        assert ending.attempts_spent < attempt.max_attempts, "one attempt too many"
        is_spent = end is not AttemptEnd.SNOOZED
        assert ending.attempts_spent == attempt.attempt - (not is_spent)
    if ending.is_dead and delay_s is not None:
        assert attempt.attempt == attempt.max_attempts, "buried too early"
        assert end is not AttemptEnd.SNOOZED, "buried for asking for another time"


@given(leased_attempts(), records, ends, delays)
def test_attempt_ends_as_healed_exactly_when_it_committed(
    attempt: LeasedAttempt, record: Record | None, end: AttemptEnd, delay_s: float | None
) -> None:
    """Its history then says so and names no error; any other keeps the end that was reported."""
    ending = decide(attempt, record, end, delay_s)

    if record is not None and record.outcome is Outcome.COMMITTED:
        assert (ending.end, ending.error) == (AttemptEnd.HEALED, None)
    else:
        assert (ending.end, ending.error) == (end, ERROR)


@given(st.lists(st.tuples(leased_attempts(), records, ends, delays), max_size=10))
def test_pass_reports_every_job_once(
    ended: list[tuple[LeasedAttempt, Record | None, AttemptEnd, float | None]],
) -> None:
    done = recovered([decide(*one) for one in ended])

    expected = sorted(attempt.lease.job_id for attempt, *_ in ended)
    assert sorted([*done.healed, *done.retried, *done.dead]) == expected
    assert done.total == len(ended)
    with_fate = [attempt.lease.job_id for attempt, record, *_ in ended if record is not None]
    assert list(done.healed) == with_fate, "only a recorded fate is not retried and not buried"


@given(
    st.integers(1, 20),
    st.lists(ends.filter(lambda end: end is not AttemptEnd.SNOOZED), min_size=25, max_size=25),
)
def test_job_that_always_fails_dies_after_max_attempts(
    max_attempts: int, reported: list[AttemptEnd]
) -> None:
    attempt = LeasedAttempt(Lease(1, 1), attempt=1, max_attempts=max_attempts, task="shop.charge")
    for end in reported:
        ending = decide(attempt, None, end, 0.0)
        if ending.is_dead:
            break
        attempt = LeasedAttempt(
            Lease(1, attempt.lease.token + 1), attempt.attempt + 1, max_attempts, attempt.task
        )
    assert ending.is_dead
    assert attempt.attempt == max_attempts

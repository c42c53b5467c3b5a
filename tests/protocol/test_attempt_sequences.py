"""One job through any sequence of attempts: no attempt too many, and one fate for good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from jobq.protocol.decisions import Ending, ending_of
from jobq.protocol.states import AttemptEnd, Outcome
from jobq.protocol.values import AttemptError, Lease, LeasedAttempt, Record

ERROR = AttemptError("ValueError", "boom", "")
SETTINGS = settings(
    max_examples=100,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
)
Decide = Callable[..., Ending]


class Attempts(RuleBasedStateMachine):
    decide: Decide = staticmethod(ending_of)

    def __init__(self) -> None:
        super().__init__()
        self.leased: LeasedAttempt | None = None
        self.record: Record | None = None
        self.enqueue(3)

    @precondition(lambda self: self.leased is None and self.record is not None)
    @rule(max_attempts=st.integers(1, 5))
    def enqueue(self, max_attempts: int) -> None:
        self.max_attempts = max_attempts
        self.attempts = self.token = 0
        self.is_waiting = True
        self.record = None

    @precondition(lambda self: self.is_waiting)
    @rule()
    def claim(self) -> None:
        self.attempts += 1
        self.token += 1
        lease = Lease(1, self.token)
        self.leased = LeasedAttempt(lease, self.attempts, self.max_attempts, "task")
        self.is_waiting = False

    @precondition(lambda self: self.leased is not None and self.record is None)
    @rule(outcome=st.sampled_from([Outcome.COMMITTED, Outcome.CANCELLED]))
    def record_fate(self, outcome: Outcome) -> None:
        self.record = Record(self.token, outcome)

    @precondition(lambda self: self.leased is not None)
    @rule(
        end=st.sampled_from([end for end in AttemptEnd if end is not AttemptEnd.HEALED]),
        delay_s=st.none() | st.just(0.0) | st.floats(0, 100),
    )
    def end_attempt(self, end: AttemptEnd, delay_s: float | None) -> None:
        assert self.leased is not None
        ending = self.decide(self.leased, self.record, end=end, error=ERROR, retry_delay_s=delay_s)
        self.leased = None
        self.is_waiting = ending.retry_delay_s is not None
        if ending.is_dead:
            assert self.record is None, "I9: a fate was replaced"
            self.record = Record(self.token, Outcome.DEAD)
        elif self.is_waiting and end is AttemptEnd.SNOOZED:
            self.attempts -= 1

    @invariant()
    def attempts_stay_in_bounds(self) -> None:
        assert self.attempts <= self.max_attempts, "I7"

    @invariant()
    def job_is_in_exactly_one_place(self) -> None:
        if self.leased is None:
            assert self.is_waiting is (self.record is None), "I9: run again, or lost"


def test_attempts_and_fates_keep_their_bounds() -> None:
    run_state_machine_as_test(Attempts, settings=SETTINGS)


def one_attempt_too_many(attempt: LeasedAttempt, record: Record | None, **how: object) -> Ending:
    return ending_of(replace(attempt, attempt=attempt.attempt - 1), record, **how)  # type: ignore[arg-type]


def blind_to_records(attempt: LeasedAttempt, record: Record | None, **how: object) -> Ending:
    return ending_of(attempt, None, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", [one_attempt_too_many, blind_to_records])
def test_broken_decisions_are_caught(broken: Decide) -> None:
    machine = type("Broken", (Attempts,), {"decide": staticmethod(broken)})
    found_is_enough = settings(SETTINGS, phases=[Phase.generate])
    with pytest.raises(AssertionError, match=r"I7|I9"):
        run_state_machine_as_test(machine, settings=found_is_enough)

"""How many retries a task may cause."""

from __future__ import annotations

from threading import Lock
from typing import Any

from jobq.protocol.retry import Budget, On, Retry


class RetryBudget:
    """A task's retries in one worker: a reserve, and a share of its successes.

    Backoff bounds how often *one* job is tried; when everything fails, all jobs are tried again,
    and their number is what the failing system sees. So every retry is paid for, as by the retry
    budgets of Finagle and the retry throttling of gRPC (proposal A6): a success pays for a share
    of one. A client may drop a retry that it cannot pay for, a queue may not. It gets into debt
    instead, and the delays of its retries are stretched by it: with D retries owed to a reserve of
    R the delay's ceiling is 1 + D / R times what it was. When N jobs fail together, the retries
    that fall due within their first ceiling are then no N, but about R times the logarithm of
    N / R. The cap of the delay stays what it is.

    A retry that succeeds at last pays back what its own attempts have cost. May be shared by
    threads.
    """

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._budget = retry.budget or Budget()
        self._balance: float = self._budget.reserve
        self._lock = Lock()

    @property
    def owed(self) -> float:
        """Retries that nothing has paid for yet."""
        return max(0.0, -self._balance)

    def delay_s(self, attempt: int, draw: float, rule: On[Any] | None = None) -> float:
        """Pay for a retry after attempt number `attempt` (from 1), and return its delay.

        `draw` is a random number in [0, 1), as for `Retry.delay_s`. `rule`: the one of the policy
        that decides, if any does. Its least delay is not stretched, what is drawn is.
        """
        with self._lock:
            self._balance -= 1
            stretch = 1 + self.owed / self._budget.reserve if self._retry.budget else 1.0
        least_s = 0.0 if rule is None else rule.delay_s or 0.0
        return least_s + self._retry.backoff_of(rule).delay_s(attempt, draw, stretch)

    def succeeded(self, attempt: int) -> None:
        """Attempt number `attempt` (from 1) of a job went well."""
        with self._lock:
            earned = attempt - 1 + self._budget.share
            self._balance = min(self._budget.reserve, self._balance + earned)

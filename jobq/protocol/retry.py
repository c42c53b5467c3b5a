"""When to try again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from jobq.errors import InvalidOption

E = TypeVar("E", bound=BaseException)

LONGEST_DELAY_S = 10**10


def check_delay(delay_s: float) -> None:
    """Raise InvalidOption unless it is a time that both databases can add to their clock."""
    if not 0 <= delay_s < LONGEST_DELAY_S:
        raise InvalidOption(f"delay {delay_s} s: a delay is a finite time from now")


def seconds_of(delay: timedelta | float) -> float:
    """Raises InvalidOption unless it is a delay."""
    delay_s = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    check_delay(delay_s)
    return delay_s


def deadline_of(deadline: datetime | timedelta | float) -> datetime | float:
    """Return a point in time, or seconds from now. Raises InvalidOption."""
    if not isinstance(deadline, datetime):
        return seconds_of(deadline)
    if deadline.utcoffset() is None:
        raise InvalidOption(
            f"deadline {deadline} has no time zone: pass an aware datetime, as in "
            "datetime.now(UTC) + timedelta(hours=1), or seconds"
        )
    return deadline


@dataclass(frozen=True, slots=True)
class On(Generic[E]):
    """What follows an error of these classes or their subclasses: a rule of a `Retry`.

    - `errors`: an exception class, or a tuple of them.

    And one of these:

    - `bury`: the job is dead at once, whatever attempts are left.
    - `snooze`: the job runs again after so many seconds (or a timedelta, or what a function makes
      of the error), and no attempt is spent. A function may return None: the failure is then an
      ordinary one.
    - `delay_s`, `base_s`, `cap_s`: another backoff. `delay_s` is the least delay, to which the
      drawn one is added; what is not given is as in the policy.

    Raises InvalidOption.
    """

    errors: type[E] | tuple[type[E], ...]
    bury: bool = False
    snooze: Callable[[E], timedelta | float | None] | timedelta | float | None = None
    delay_s: float | None = None
    base_s: float | None = None
    cap_s: float | None = None

    def __post_init__(self) -> None:
        classes = self.errors if isinstance(self.errors, tuple) else (self.errors,)
        if not classes or not all(
            isinstance(one, type) and issubclass(one, BaseException) for one in classes
        ):
            raise InvalidOption(
                f"On({self.errors!r}): pass one or more exception classes, several as a tuple"
            )
        has_delay = any(given is not None for given in (self.delay_s, self.base_s, self.cap_s))
        said = self.bury + (self.snooze is not None) + has_delay
        if said != 1:
            raise InvalidOption(
                f"On({self.errors!r}) says {'too much' if said else 'nothing'}: give one of bury, "
                "snooze or another delay"
            )
        check_delay(self.delay_s or 0.0)
        if self.snooze is not None and not callable(self.snooze):
            seconds_of(self.snooze)

    def snooze_s(self, error: E) -> float | None:
        """Return the snooze in seconds, None for an ordinary failure.

        Raises InvalidOption for what is no delay, and whatever a function of the rule raises.
        """
        delay = self.snooze(error) if callable(self.snooze) else self.snooze
        return None if delay is None else seconds_of(delay)


@dataclass(frozen=True, slots=True)
class Budget:
    """How many retries a task may cause in one worker before their delays are stretched.

    - `reserve`: retries that need no success to pay for them.
    - `share`: retries that every success pays for.

    How it is kept: `jobq/protocol/budget.py`. Raises InvalidOption.
    """

    reserve: int = 10
    share: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.reserve < math.inf and 0 <= self.share < math.inf):
            raise InvalidOption(
                f"Budget(reserve={self.reserve}, share={self.share}): use finite numbers, a "
                "reserve above 0 and a share of 0 or more; Retry(budget=None) has no budget"
            )


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential backoff with full jitter, and rules for errors that are to be treated otherwise.

    The delay before attempt *n* + 1 is drawn evenly from 0 to `base_s * 2**(n - 1)` seconds, never
    more than `cap_s`. Drawing from the whole range, rather than adding a little noise to it,
    is what spreads a crowd of jobs that failed together (Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015).

    - `base_s`: the widest first delay, in seconds.
    - `cap_s`: the widest of all, in seconds.
    - `rules`: the first whose classes fit the error decides; see `On`.
    - `budget`: by what share of its successes a task may retry before delays are stretched; None
      for no bound.

    Raises InvalidOption.
    """

    base_s: float = 2.0
    cap_s: float = 3600.0
    rules: Sequence[On[Any]] = ()
    budget: Budget | None = Budget()

    def __post_init__(self) -> None:
        if not 0 <= self.base_s <= self.cap_s < math.inf:
            raise InvalidOption(
                f"Retry(base_s={self.base_s}, cap_s={self.cap_s}): both are finite seconds, with "
                "0 <= base_s <= cap_s"
            )
        if not isinstance(self.rules, Sequence) or not all(
            isinstance(rule, On) for rule in self.rules
        ):
            raise InvalidOption(f"rules={self.rules!r}: pass a list of On(...)")
        object.__setattr__(self, "rules", tuple(self.rules))  # a value, which can be hashed
        for rule in self.rules:
            self.backoff_of(rule)

    def rule_for(self, error: BaseException) -> On[Any] | None:
        """Return the first rule that fits the error, None for the policy's own backoff."""
        return next((rule for rule in self.rules if isinstance(error, rule.errors)), None)

    def backoff_of(self, rule: On[Any] | None) -> Retry:
        """Return the backoff that a rule leaves or gives, without its least delay."""
        if rule is None or (rule.base_s is None and rule.cap_s is None):
            return self
        return replace(
            self,
            base_s=self.base_s if rule.base_s is None else rule.base_s,
            cap_s=self.cap_s if rule.cap_s is None else rule.cap_s,
            rules=(),
        )

    def delay_s(self, attempt: int, draw: float, stretch: float = 1.0) -> float:
        """Return the delay in seconds after attempt number `attempt` (from 1).

        `draw` is a random number in [0, 1), passed in so that this stays a pure function. The
        range it is drawn from is `stretch` times as wide, up to the cap.
        """
        # 2.0**1024 overflows a float; the cap was passed long before the 64th attempt.
        ceiling_s = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 64) * stretch)
        return ceiling_s * draw

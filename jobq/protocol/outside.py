"""Effects outside the database: a task's policy for them, and what a step records. Pure."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID, uuid5

import msgspec

from jobq.errors import InvalidOption, InvalidStep, InvalidTask
from jobq.protocol.arguments import from_json, to_json
from jobq.protocol.retry import Retry
from jobq.protocol.values import AttemptError

MAX_RESULT_BYTES = 256 * 1024
MAX_STEP_NAME_CHARACTERS = 200


class OutsideEffects(StrEnum):
    """What follows when an attempt has begun and ends in no other way than by returning,
    committing or snoozing: it raised, its worker was stopped or killed, or its lease was lost.

    Whether it did something outside the database, nobody knows then.
    """

    AT_LEAST_ONCE = "at_least_once"
    """The job is retried: an outside effect may happen again. The default."""
    AT_MOST_ONCE = "at_most_once"
    """The job is dead: no outside effect happens again."""
    ASK = "ask"
    """The job is `ambiguous`: a person looks, and decides."""


OutsideEffectsName = OutsideEffects | Literal["at_least_once", "at_most_once", "ask"]


def policy_of(name: OutsideEffectsName) -> OutsideEffects:
    """Raises InvalidOption."""
    try:
        return OutsideEffects(name)
    except ValueError:
        raise InvalidOption(
            f"outside_effects {name!r}: use {', '.join(repr(str(one)) for one in OutsideEffects)}"
        ) from None


def check_boundary(task: str, policy: OutsideEffects, effect_kind: type[Any] | None) -> None:
    """Raise InvalidTask when outside effects would happen inside an open commit boundary."""
    if policy is not OutsideEffects.AT_LEAST_ONCE and effect_kind is not None:
        raise InvalidTask(
            f"task {task!r} has outside_effects={str(policy)!r} and asks for a "
            f"{effect_kind.__name__}, so that all of it would run inside the commit boundary: take "
            "`job: Job` instead, and open job.commit() when the outside effects are done"
        )


def check_rules(task: str, policy: OutsideEffects, retry: Retry) -> None:
    """Raise InvalidOption when a rule would repeat an attempt that has begun outside effects."""
    if policy is OutsideEffects.AT_LEAST_ONCE:
        return
    for rule in retry.rules:
        if rule.snooze is not None:
            raise InvalidOption(
                f"task {task!r} has outside_effects={str(policy)!r} and a rule that snoozes on "
                f"{rule.errors!r}, which would repeat an attempt that may have done something: "
                "raise Snooze in the handler, where it knows that it did nothing"
            )


class Resolution(StrEnum):
    """What a person decides about an ambiguous job."""

    DONE = "done"
    """The outside effect happened: the job is done, and nothing more of it runs."""
    RETRY = "retry"
    """It did not: the job runs again, and the attempt counts as not spent."""
    BURY = "bury"
    """The job is dead."""


@dataclass(frozen=True, slots=True)
class AmbiguousJob:
    """A job that waits for a person, and the attempt of which nobody knows what it did."""

    id: int
    token: int
    """The lease token of that attempt. A decision holds for this attempt and no other."""
    task: str
    queue: str
    args: str
    """The arguments as JSON."""
    idempotency_key: UUID
    """What an outside service was given, if the handler gave it."""
    attempt: int
    worker: str
    started_at: datetime
    parked_at: datetime
    error: AttemptError | None


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step's result, as later attempts get it."""

    name: str
    result: str
    """As JSON."""
    token: int
    """The lease token of the attempt that recorded it."""
    recorded_at: datetime


def step_key(idempotency_key: UUID, name: str) -> UUID:
    """The step's own idempotency key: the same for every attempt at its job."""
    return uuid5(idempotency_key, name)


def check_step_name(name: str) -> None:
    """Raises InvalidStep unless both databases can store the name in a key."""
    if not (name.isprintable() and 0 < len(name) <= MAX_STEP_NAME_CHARACTERS):
        raise InvalidStep(
            f"step {name[:MAX_STEP_NAME_CHARACTERS]!r}: a name is 1 to "
            f"{MAX_STEP_NAME_CHARACTERS} printable characters"
        )


class StepResult:
    """How a step's function's result is written, and read by the function's annotation.

    What comes back is what JSON made of it, the first time as well as later.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        """Raises InvalidStep when the annotated type cannot be read from JSON."""
        self._name = name
        self._type = _returned(function)
        try:
            self._decoder = msgspec.json.Decoder(self._type, dec_hook=from_json)
        except (TypeError, ValueError) as error:
            raise InvalidStep(
                f"step {name!r}: its function returns {self._type!r}, which cannot be read from "
                f"JSON ({error}); return plain values, or annotate what JSON can hold"
            ) from error

    def encode(self, result: object) -> str:
        """Raises InvalidStep; the function has run then, and will run again."""
        try:
            encoded = msgspec.json.encode(result, enc_hook=to_json)
            self._decoder.decode(encoded)
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise InvalidStep(
                f"step {self._name!r} ran, and its result cannot be recorded as JSON ({error}): "
                "the next attempt runs it again. Return plain values that fit its annotation"
            ) from error
        if len(encoded) > MAX_RESULT_BYTES:
            raise InvalidStep(
                f"step {self._name!r} ran, and its result takes {len(encoded):,} bytes of JSON, "
                f"more than {MAX_RESULT_BYTES:,}: it is not recorded, and the next attempt runs "
                "the step again. Store the payload elsewhere and return its key"
            )
        return encoded.decode()

    def decode(self, recorded: str) -> Any:
        """Raises InvalidStep when an older version of the function recorded something else."""
        try:
            return self._decoder.decode(recorded)
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise InvalidStep(
                f"step {self._name!r}: what was recorded does not fit {self._type!r}, which its "
                f"function returns now ({error}); give the changed step another name"
            ) from error


def _returned(function: Callable[..., Any]) -> Any:
    """What the function says that it returns; anything, when it does not say."""
    try:
        return typing.get_type_hints(inspect.unwrap(function)).get("return", Any)
    except (TypeError, NameError, AttributeError):  # a partial, an object, a name for checkers only
        return Any

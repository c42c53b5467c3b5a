"""Unique jobs: what makes two requests the same, and for how long the first stands for both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from jobq.errors import InvalidOption
from jobq.protocol.failure import storable
from jobq.protocol.limits import Digest, no_digest
from jobq.protocol.values import UniqueRequest

MAX_KEY_CHARACTERS = 300
"""Keys are part of an index; a longer one is hashed."""


class Until(StrEnum):
    """How long a job keeps others like it away."""

    CLAIMED = "claimed"
    """While it waits, a retry in its backoff included."""
    ENDED = "ended"
    """Until it is committed, dead or cancelled."""
    PRUNED = "pruned"
    """For as long as the job is kept."""


class OnConflict(StrEnum):
    """What an enqueue does when there is such a job."""

    RETURN = "return"
    """Return that one."""
    RAISE = "raise"
    """Raise `JobExists`."""
    REPLACE = "replace"
    """Cancel that one if it waits, and enqueue the new one; if it runs, return it."""
    MOVE = "move"
    """Give that one the new one's time if it waits; return it."""


@dataclass(frozen=True, slots=True)
class Unique:
    """At most one job of a kind.

    - `by`: the arguments that make two jobs of a task the same; all of them when not given.
    - `key`: instead of arguments, a key that is the caller's.
    - `until`: how long the job keeps others away; see `Until`.
    - `within_s`: for so many seconds from its enqueueing at most; None for no such bound.
    - `on_conflict`: what happens to the other; see `OnConflict`.

    Raises InvalidOption.
    """

    by: Sequence[str] | None = None
    key: str | None = None
    until: Until | str = Until.ENDED
    within_s: float | None = None
    on_conflict: OnConflict | str = OnConflict.RETURN

    def __post_init__(self) -> None:
        problem = None
        if isinstance(self.by, str):
            problem = f"by={self.by!r}: give a list of argument names, as in by=[{self.by!r}]"
        elif self.by is not None and self.key is not None:
            problem = "by and key both say what is the same: give one of them"
        elif self.key is not None and not self.key:
            problem = "key is empty: leave it out, or name what is the same"
        elif self.key is not None and storable(self.key) != self.key:
            problem = f"key {self.key[:40]!r}: databases hold no NUL and no lone surrogate"
        elif self.within_s is not None and not 0 < self.within_s < 10**10:
            problem = f"within_s={self.within_s}: use more than 0 seconds"
        elif self.until not in list(Until):
            problem = f"until={self.until!r}: use {', '.join(repr(one.value) for one in Until)}"
        elif self.on_conflict not in list(OnConflict):
            names = ", ".join(repr(one.value) for one in OnConflict)
            problem = f"on_conflict={self.on_conflict!r}: use {names}"
        if problem is not None:
            raise InvalidOption(f"Unique: {problem}")
        if self.by is not None:
            object.__setattr__(self, "by", tuple(self.by))

    def request(
        self, task: str, arguments: Mapping[str, object], digest: Digest = no_digest
    ) -> UniqueRequest:
        """Return what is asked for a job of this task with these arguments.

        `digest`: hashes what is not to be stored in clear.
        """
        if self.key is not None:
            told = f"key {self.key}"
        else:
            names = arguments.keys() if self.by is None else self.by
            same = {name: arguments.get(name) for name in names}
            told = json.dumps(same, sort_keys=True, separators=(",", ":"))
        if (hashed := digest(f"{task} {told}")) is not None:
            told = f"hmac {hashed}"
        elif len(told) > MAX_KEY_CHARACTERS:
            told = f"sha256 {hashlib.sha256(told.encode()).hexdigest()}"
        return UniqueRequest(
            f"{task} {told}", Until(self.until), self.within_s, OnConflict(self.on_conflict)
        )


@dataclass(frozen=True, slots=True)
class Holder:
    """The job that has a key, as it is found."""

    age_s: float
    """Since its enqueueing."""
    is_leased: bool
    is_ended: bool

    @property
    def is_waiting(self) -> bool:
        return not (self.is_leased or self.is_ended)


def is_held(request: UniqueRequest, holder: Holder | None) -> bool:
    """Whether the holder keeps this request away. None: it was pruned, or never came to be."""
    if holder is None or (request.within_s is not None and holder.age_s > request.within_s):
        return False
    if request.until == Until.CLAIMED:
        return holder.is_waiting
    return request.until == Until.PRUNED or not holder.is_ended

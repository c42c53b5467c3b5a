"""Limits on how many jobs run at once, and how often one begins: keys, lines, and who may go next.

A job that is limited waits in a line of its own, which its queue and its limits' keys name. What a
claim takes from the lines is decided here, from counts that no other claim can change meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jobq.errors import InvalidOption

MAX_KEY_CHARACTERS = 200
"""Keys are part of an index; the values of a longer one are hashed."""


Digest = Callable[[str], str | None]
"""Hashes a text that is not to be stored in clear; None if it may be."""


def no_digest(_: str) -> None:
    """It may be stored as it is."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How many jobs may run at once, and how many may begin in a time, wherever they run.

    - `name`: what the database calls it; tasks that share a limit are counted together.
    - `concurrency`: how many hold a lease at the same time, at most.
    - `rate`, `per_s`: how many begin within so many seconds, at most, on average.
    - `burst`: how many begin at once after a rest; by default as many as `rate`.
    - `by`: the arguments whose values are counted apart, as in `by=["customer_id"]`; none for one
      count of all.

    Raises InvalidOption.
    """

    name: str
    concurrency: int | None = None
    rate: int | None = None
    per_s: float = 1.0
    burst: int | None = None
    by: Sequence[str] = ()

    def __post_init__(self) -> None:
        problem = None
        if not (self.name.isprintable() and 0 < len(self.name) <= MAX_KEY_CHARACTERS // 2):
            problem = f"a name is 1 to {MAX_KEY_CHARACTERS // 2} printable characters"
        elif "=" in self.name:
            problem = "a name has no =, which stands before the values that it counts by"
        elif self.concurrency is None and self.rate is None:
            problem = "it limits nothing: give it a concurrency, a rate, or both"
        elif self.concurrency is not None and self.concurrency < 1:
            problem = f"concurrency {self.concurrency}: use 1 or more; pause the queue to stop it"
        elif self.rate is not None and self.rate < 1:
            problem = f"rate {self.rate}: use 1 or more, and a longer per_s for less"
        elif not 0 < self.per_s <= 86_400 * 366:
            problem = f"per_s {self.per_s}: use more than 0 seconds, and a year at most"
        elif self.burst is not None and (self.rate is None or self.burst < 1):
            problem = f"burst {self.burst}: use 1 or more, beside a rate"
        elif isinstance(self.by, str):
            problem = f"by {self.by!r}: give a list of argument names, as in by=[{self.by!r}]"
        if problem is not None:
            raise InvalidOption(f"limit {self.name[:MAX_KEY_CHARACTERS]!r}: {problem}")
        object.__setattr__(self, "by", tuple(self.by))

    @property
    def per_second(self) -> float | None:
        """The rate in jobs per second."""
        return None if self.rate is None else self.rate / self.per_s

    @property
    def most_tokens(self) -> int | None:
        """How many may begin at once after a rest."""
        return self.burst or self.rate

    def key(self, arguments: Mapping[str, object], digest: Digest = no_digest) -> str:
        """What a job with these arguments is counted under. `digest`: see `Unique.request`."""
        if not self.by:
            return self.name
        values = [arguments.get(name) for name in self.by]
        told = json.dumps(values, sort_keys=True, separators=(",", ":"))
        if (hashed := digest(f"{self.name} {told}")) is not None:
            told = hashed
        elif len(self.name) + len(told) > MAX_KEY_CHARACTERS:
            told = hashlib.sha256(told.encode()).hexdigest()
        return f"{self.name}={told}"


def line_of(
    queue: str,
    limits: Sequence[Limit],
    arguments: Mapping[str, object],
    digest: Digest = no_digest,
) -> str | None:
    """Return the line in which a job waits, its queue and its keys as JSON; None without limits."""
    if not limits:
        return None
    return json.dumps([queue, *sorted({limit.key(arguments, digest) for limit in limits})])


@dataclass(frozen=True, slots=True)
class Line:
    """A line, read back."""

    text: str
    queue: str
    keys: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> Line:
        queue, *keys = json.loads(text)
        return cls(text, queue, tuple(keys))


def name_of(key: str) -> str:
    """The name of the limit that a key belongs to."""
    return key.partition("=")[0]


@dataclass(frozen=True, slots=True)
class Bucket:
    """A key's token bucket, as it stood `age_s` seconds ago."""

    per_second: float
    most: int
    tokens: float
    age_s: float

    @property
    def filled(self) -> float:
        """The tokens it holds: it fills with time, up to its burst, and a clock that was set back
        takes none away."""
        return min(float(self.most), self.tokens + self.per_second * max(0.0, self.age_s))

    def until_next_s(self) -> float:
        """Seconds until it holds a token; 0 when it does."""
        return max(0.0, (1.0 - self.filled) / self.per_second)


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key whose row is locked: nobody else claims under it meanwhile."""

    concurrency: int | None
    held: int
    """Leases counted under it."""
    bucket: Bucket | None

    @property
    def free(self) -> int | None:
        """How many more may begin now; None for any number."""
        bounds = []
        if self.concurrency is not None:
            bounds.append(max(0, self.concurrency - self.held))
        if self.bucket is not None:
            bounds.append(int(self.bucket.filled + 1e-9))
        return min(bounds, default=None)


def allocate(lines: Sequence[Line], keys: Mapping[str, Key], limit: int) -> dict[str, int]:
    """Return how many to take from each line, at most: one of each in turn, so that no line waits
    for a longer one, until `limit` are given out or no key has room.

    A line with a key that is not in `keys` gets none: somebody else claims under it right now.
    """
    free = {name: key.free for name, key in keys.items()}

    def has_room(line: Line) -> bool:
        return all(free[key] != 0 for key in line.keys)

    given: dict[str, int] = {}
    open_lines = [line for line in lines if all(key in keys for key in line.keys)]
    left = limit
    while left > 0 and (open_lines := [line for line in open_lines if has_room(line)]):
        for line in open_lines[:left]:
            if has_room(line):
                for key in line.keys:
                    if (count := free[key]) is not None:
                        free[key] = count - 1
                given[line.text] = given.get(line.text, 0) + 1
                left -= 1
    return given

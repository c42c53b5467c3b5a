"""How a worker behaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from jobq.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Settings of one worker. Raises InvalidOption for values that cannot work together."""

    queues: Sequence[str] | Mapping[str, int] | None = None
    """The queues to serve; None for all of them. A mapping says how many jobs of each this worker
    has in hand at most."""
    concurrency: int = 10
    """Handlers that run at once."""
    prefetch: int | None = None
    """Jobs leased ahead of the handlers; when None, a tenth of a second's work at the rate of the
    moment, 500 at the most; what no handler has come for in a second goes back to its queue, at no
    cost (see `jobq.worker.prefetch`). A number that is given is kept to."""
    lease_s: float = 60.0
    """Seconds that a lease lasts. Heartbeats extend it; a crashed worker's jobs wait this long."""
    grace_s: float = 30.0
    """Seconds that a stopping worker waits for its handlers."""
    poll_s: float = 1.0
    """Seconds between an idle worker's looks for jobs that nobody told it of; up to half more,
    at random."""
    reconcile_s: float | None = None
    """Seconds between looks for expired leases; a third of `lease_s` when None."""
    prune_s: float | None = 300.0
    """Seconds between walks along the jobs for those that were kept for their time; None for
    never."""

    def __post_init__(self) -> None:
        for name, least in (
            ("concurrency", 1),
            ("lease_s", 0.5),
            ("grace_s", 0),
            ("poll_s", 0.001),
        ):
            if not getattr(self, name) >= least:
                raise InvalidOption(f"{name} is {getattr(self, name)}: use {least} or more")
        for name in ("lease_s", "grace_s", "poll_s"):
            if getattr(self, name) == math.inf:
                raise InvalidOption(f"{name} is infinite: use a number of seconds")
        if isinstance(self.queues, str):
            raise InvalidOption(f"queues is the text {self.queues!r}: pass a list of names")
        for queue, most in self.caps.items():
            if most < 1:
                raise InvalidOption(
                    f"queue {queue!r} is to have {most} jobs at once: use 1 or more"
                )
        if self.prefetch is not None and self.prefetch < 0:
            raise InvalidOption(f"prefetch is {self.prefetch}: use 0 or more")
        if self.reconcile_s is not None and self.reconcile_s <= 0:
            raise InvalidOption(f"reconcile_s is {self.reconcile_s}: use more than 0")
        if self.prune_s is not None and not 0 < self.prune_s < math.inf:
            raise InvalidOption(
                f"prune_s is {self.prune_s}: use a number of seconds, or None not to prune"
            )
        if self.queues is not None and not self.queues:
            raise InvalidOption("queues is empty: name the queues to serve, or None for all")

    @property
    def names(self) -> list[str] | None:
        """The queues to serve, None for all."""
        return None if self.queues is None else list(self.queues)

    @property
    def caps(self) -> Mapping[str, int]:
        """How many jobs of a queue to have in hand, for queues that have a bound of their own."""
        return self.queues if isinstance(self.queues, Mapping) else {}

    @property
    def reconcile_interval_s(self) -> float:
        return self.lease_s / 3 if self.reconcile_s is None else self.reconcile_s

    @property
    def patience_s(self) -> float:
        """How long a worker waits for an answer about its jobs before it connects afresh: its
        peer may hang in a way that no keepalive can tell."""
        return self.lease_s / 2

    @property
    def idle_in_transaction_s(self) -> float:
        """The server ends a silent effect transaction after this: before its lease expires, so
        that an attempt frozen inside its effect cannot keep its job from being recovered."""
        return self.lease_s * 0.8


class WorkerSettings(TypedDict, total=False):
    """`WorkerOptions` as keyword arguments."""

    queues: Sequence[str] | Mapping[str, int] | None
    concurrency: int
    prefetch: int | None
    lease_s: float
    grace_s: float
    poll_s: float
    reconcile_s: float | None
    prune_s: float | None

"""What a failure mode is: a harm, a way to bring it about, and the invariant that rules it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from jobq.failure_modes.shop import Shop


class Needs(StrEnum):
    """What a failure mode takes place on."""

    DATABASE = "a database"
    SERVER = "a PostgreSQL server of its own, to stop and start"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen at the end of a scenario."""

    is_harmed: bool
    detail: str
    """The harm, or what took its place, in one sentence."""
    seen: dict[str, Any] = field(default_factory=dict)
    """The facts behind it, for the tests to assert on."""


Scenario = Callable[[Shop], Finding]


@dataclass(frozen=True, slots=True)
class FailureMode:
    """One entry of the catalogue.

    `reproduce` brings the harm about on a variant that lacks the guard; `prevent` plays the same
    interleaving, or the same fault, on jobq. Each gets a shop of its own.
    """

    id: str
    title: str
    invariants: tuple[str, ...]
    """Those of docs/protocol.md that the harm breaks; "liveness" where it only stops progress."""
    reproduce: Scenario
    prevent: Scenario
    needs: Needs = Needs.DATABASE
    not_on_postgresql: str | None = None
    """Why it cannot happen there; None when it is played there."""
    not_on_sqlite: str | None = None

    def not_on(self, backend: str) -> str | None:
        return self.not_on_sqlite if backend == "sqlite" else self.not_on_postgresql

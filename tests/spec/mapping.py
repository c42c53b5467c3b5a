"""What docs/formal-model.md says of the model, as its tables have it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from spec.tlc import SPEC

PAGE = Path(__file__).parents[2] / "docs" / "formal-model.md"

_QUOTED = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Weakening:
    """A row of the table of weakenings."""

    implemented_by: tuple[str, ...]
    violated: str
    trace_states: int


@cache
def actions() -> dict[str, tuple[str, ...]]:
    """Each action of the page's table, and the names in code that it is said to stand for."""
    mapped: dict[str, tuple[str, ...]] = {}
    for named, step, statements in _rows("The actions"):
        for action in _QUOTED.findall(named):
            assert action not in mapped, f"{action} is mapped twice"
            mapped[action] = (*_QUOTED.findall(step), *_QUOTED.findall(statements))
    return mapped


@cache
def weakenings() -> dict[str, Weakening]:
    """The rows of the page's table of weakenings, by the guard that is missing."""
    return {
        guard.strip("`"): Weakening(tuple(_QUOTED.findall(where)), violated, int(trace_states))
        for guard, where, violated, trace_states in _rows("The weakenings")
    }


def modelled_actions() -> set[str]:
    """The actions that the specification's `Next` is made of."""
    text = SPEC.read_text()
    begin, end = text.index("HandlerStep(w) =="), text.index("Spec == ")
    groups = text[begin:end]
    defined = set(re.findall(r"^(\w+)(?:\([\w, ]+\))? ==", text[:begin], re.MULTILINE))
    return set(re.findall(r"\w+", groups)) & defined


def _rows(heading: str) -> list[list[str]]:
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

"""The table and the settings in docs/scoreboard.md, made of results.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scoreboard.scenarios import SCENARIOS
from scoreboard.suite import ROWS

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results.json")
PAGE = REPOSITORY / "docs" / "scoreboard.md"
DOCS = "docs/"


def saved() -> dict[str, Any]:
    """What was measured and kept."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return {"machine": {}, "queues": {}, "cells": {}, **found}


def save(measured: Mapping[str, Any]) -> None:
    """Keep the cells, in the place of what was kept of the same."""
    kept = saved()
    kept["machine"] = measured["machine"]
    kept["queues"] |= measured["queues"]
    for queue, cells in measured["cells"].items():
        kept["cells"].setdefault(queue, {}).update(cells)
    RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def render(page: str, results: Mapping[str, Any]) -> str:
    """Return the page with its generated parts made anew."""
    for name, made in (("table", table(results)), ("settings", settings(results))):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{PAGE.name} lacks {begin} or {end}")
        page = f"{before}{begin}\n\n{made}\n\n{end}{after}"
    return page


def table(results: Mapping[str, Any], *, only: Sequence[str] = ()) -> str:
    """A row for each queue, a column for each scenario, or for those that are named."""
    shown = [each for each in SCENARIOS if each.name in only or not only]
    titles = [
        f"{number}. {each.title}" for number, each in enumerate(SCENARIOS, 1) if each in shown
    ]
    lines = [f"| queue | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for row in ROWS:
        played = results["cells"].get(row.name, {})
        cells = [_cell(played.get(each.name, [])) for each in shown]
        lines.append(f"| {row.title} {_version(results, row.name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _version(results: Mapping[str, Any], name: str) -> str:
    versions = results["queues"].get(name, {}).get("versions", {"": "?"})
    return str(next(iter(versions.values())))


def _cell(cells: Sequence[Mapping[str, Any]]) -> str:
    """What was seen, in bold where it does not hold; of several times, how often each."""
    if not cells:
        return "not played"
    said = Counter((each["says"].replace("|", "/"), each["holds"]) for each in cells)
    shown = []
    for (says, holds), often in said.items():
        marked = f"**{says}**" if holds is False else says
        shown.append(marked if len(cells) == 1 else f"{marked} ({often} of {len(cells)})")
    return "; ".join(shown)


def settings(results: Mapping[str, Any]) -> str:
    """How each queue was set up, and where its documentation says so."""
    lines = []
    for row in ROWS:
        facts = results["queues"].get(row.name)
        if facts is None:
            continue
        versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
        chosen = ", ".join(
            f"`{name}`: {_shown(value)}" for name, value in facts["settings"].items()
        )
        lines += [
            f"- **{row.title}** ({versions}; Python {facts['python']}). Effect: {facts['effect']}. "
            f"{chosen}.{_sources(facts['sources'])}"
        ]
    return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return str(value)


def _sources(sources: Sequence[str]) -> str:
    links = [
        f"[{each.removeprefix(DOCS)}]({each.removeprefix(DOCS)})"
        if each.startswith(DOCS)
        else f"<{each}>"
        for each in sources
    ]
    return f" See {', '.join(links)}." if links else ""


def as_text(results: Mapping[str, Any]) -> str:
    """What was measured, a line for each cell."""
    lines = []
    for queue, played in results["cells"].items():
        for scenario, cells in played.items():
            lines += [f"{queue:16} {scenario:20} {each['says']}" for each in cells]
    return "\n".join(lines)

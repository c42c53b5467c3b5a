"""Links in the API's reference: what a docstring names leads to where it is described.

Docstrings are read in editors and terminals too, so they say `Retry`, InvalidOption and
docs/retries.md, and hold no links. Here these become links.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

import jobq
import jobq.errors
import jobq.testing

PAGES = Path(__file__).resolve().parents[1] / "docs"
TARGETS = {
    **{name: f"jobq.testing.{name}" for name in jobq.testing.__all__},
    **{name: f"jobq.{name}" for name in jobq.__all__},
}
ERRORS = sorted((vars(jobq.errors).keys() & set(jobq.__all__)) - {"Outcome", "Refusal"})
NAME = re.compile(r"`(?:JobQueue\.)?(\w+)`")
ERROR = re.compile(rf"(?<![`\w\[.])({'|'.join(ERRORS)})(?![`\w\]])")
PAGE = re.compile(r"(?<![\w/])docs/([\w-]+)\.md")


def linked(text: str, inside: str) -> str:
    """The docstring with its links; none from an object to itself."""

    def name(found: re.Match[str]) -> str:
        target = TARGETS.get(found[1])
        if found[0].startswith("`JobQueue."):
            target = f"jobq.JobQueue.{found[1]}"
        return f"[{found[0]}][{target}]" if target and found[1] != inside else found[0]

    def error(found: re.Match[str]) -> str:
        return f"[`{found[1]}`][{TARGETS[found[1]]}]"

    lines = text.split("\n")
    for number, line in enumerate(lines):
        if not line.startswith("    "):  # an example
            lines[number] = with_pages(NAME.sub(name, ERROR.sub(error, line)))
    return "\n".join(lines)


def with_pages(text: str) -> str:
    """The text with links to the pages that it names, for a page in docs/reference."""

    def page(found: re.Match[str]) -> str:
        title = re.search(r"^# (.+)$", (PAGES / f"{found[1]}.md").read_text(), re.MULTILINE)
        return f"[{title[1] if title else found[1]}](../{found[1]}.md)"

    return PAGE.sub(page, text)


class Links(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = linked(obj.docstring.value, obj.name)

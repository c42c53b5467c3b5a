"""What the API's reference makes of docstrings, which are read in editors and terminals too.

They say `Retry`, InvalidOption and docs/retries.md, and hold no links: here these become links. The
fields of a value and the members of an enum are told of where they stand: here they become one
list, rather than a heading for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
NAME = re.compile(rf"`(JobQueue\.)?(\w+)`|(?<![`\w.])({'|'.join(ERRORS)})(?![`\w])")
PAGE = re.compile(r"(?<![\w/])docs/([\w-]+)\.md")


def linked(text: str, inside: str) -> str:
    """The docstring with its links; none from an object to itself."""

    def name(found: re.Match[str]) -> str:
        of_queue, quoted, error = found.groups()
        named = quoted or error
        target = f"jobq.JobQueue.{named}" if of_queue else TARGETS.get(named)
        if target is None or named == inside:
            return found[0]
        return f"[`{found[0].strip('`')}`][{target}]"

    lines = text.split("\n")
    for number, line in enumerate(lines):
        if not line.startswith("    "):  # an example
            lines[number] = with_pages(NAME.sub(name, line))
    return "\n".join(lines)


def with_pages(text: str) -> str:
    """The text with links to the pages that it names, for a page in docs/reference."""

    def page(found: re.Match[str]) -> str:
        title = re.search(r"^# (.+)$", (PAGES / f"{found[1]}.md").read_text(), re.MULTILINE)
        return f"[{title[1] if title else found[1]}](../{found[1]}.md)"

    return PAGE.sub(page, text)


class Docstrings(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = linked(obj.docstring.value, obj.name)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        told = cls.docstring.value if cls.docstring is not None else ""
        fields = [_field(one) for one in _fields(cls) if f"- `{one.name}`" not in told]
        if cls.docstring is not None and fields:
            cls.docstring.value = "\n".join([told, "", "Attributes:", *fields])


def _fields(cls: griffe.Class) -> Iterator[griffe.Attribute]:
    """Of an enum, a dataclass or a named tuple."""
    bases = {str(base) for base in cls.bases}
    is_dataclass = any(str(one.value).startswith("dataclass") for one in cls.decorators)
    if is_dataclass or bases & {"StrEnum", "NamedTuple"}:
        attributes = [one for one in cls.members.values() if isinstance(one, griffe.Attribute)]
        for one in attributes:
            if not one.name.startswith("_") and "property" not in one.labels:
                yield one


def _field(one: griffe.Attribute) -> str:
    """A line of a section of Google's form."""
    told = " ".join(one.docstring.value.split()) if one.docstring is not None else ""
    value = f"`{one.value}`" if one.annotation is None else ""
    return f"    {one.name}: {value}{'. ' if told and value else ''}{told}"

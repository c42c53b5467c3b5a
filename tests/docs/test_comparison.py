"""The comparison's tables have a cell for everybody, and the docs' own links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / "postmortems").rglob("*.md"), *ROOT.glob("*.md")])
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]*)?\)")


def heading_anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_pages_and_headings_that_exist(page: Path) -> None:
    missing = []
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            missing.append(path)
        elif anchor and target.suffix == ".md" and anchor[1:] not in heading_anchors(target):
            missing.append(path + anchor)
    assert missing == []


def test_every_row_of_the_comparison_has_its_cells_and_every_cell_its_evidence() -> None:
    text = (DOCS / "comparison.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 30
    assert {row.count(" | ") for row in rows} == {8}
    used = set(re.findall(r"\]\[(\d+)\]", text))
    defined = set(re.findall(r"^\[(\d+)\]: https://", text, re.MULTILINE))
    assert used == defined
    for row in rows:
        for cell in row.strip("| ").split(" | ")[1:]:
            is_heading = cell == "jobq" or cell[0].isupper()
            assert is_heading or cell == "-" or "](" in cell or "][" in cell

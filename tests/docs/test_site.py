"""The site: it builds without a warning, holds together, needs nobody else, and is complete."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import expect

import jobq
from tests.dashboard.browser import chromium, watch

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PROGRAMS = Path(sys.executable).parent
BOUND_S = 300.0
LOADED = {"audio", "embed", "iframe", "img", "link", "object", "script", "source", "track", "video"}
NEVER_LOADED = {"canonical", "next", "prev"}
PHONE, DESK = (390, 844), (1280, 900)


def ran(*arguments: str) -> None:
    done = subprocess.run(
        [str(PROGRAMS / arguments[0]), *arguments[1:]],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


class Document(HTMLParser):
    """A page's anchors, what it links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors = {"", "__top"}
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        for name in ("href", "src", "srcset", "data", "poster"):
            if name in given:
                is_loaded = tag in LOADED and given.get("rel") not in NEVER_LOADED
                (self.loads if is_loaded else self.links).append(given[name])


def dead_links(site: Path, documents: dict[Path, Document]) -> Iterator[str]:
    for page, document in documents.items():
        for link in {*document.links, *document.loads}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            # The page for what is not found may be shown anywhere: its links begin with /.
            base = site if parts.path.startswith("/") else page.parent
            path = unquote(parts.path).lstrip("/")
            target = (base / path).resolve() if path else page
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                yield f"{page.relative_to(site)}: {link}"
            elif target in documents and unquote(parts.fragment) not in documents[target].anchors:
                yield f"{page.relative_to(site)}: {link}: no such anchor"


def asks_others(site: Path, documents: dict[Path, Document]) -> Iterator[str]:
    for page, document in documents.items():
        for link in document.loads:
            parts = urlsplit(link)
            if parts.netloc or parts.scheme not in ("", "data"):
                yield f"{page.relative_to(site)}: {link}"
    for style in site.rglob("*.css"):
        for link in re.findall(
            r"(?:url\(|@import\s*)[\"']?((?:https?:)?//[^)\"']+)", style.read_text()
        ):
            yield f"{style.relative_to(site)}: {link}"


@pytest.mark.timeout(900)
def test_the_site_builds_and_holds_together(tmp_path: Path) -> None:
    site = tmp_path / "site"
    ran("mkdocs", "build", "--strict", "--site-dir", str(site))

    documents = {page: Document(page.read_text()) for page in sorted(site.rglob("*.html"))}
    assert len(documents) > 100
    assert list(dead_links(site, documents)) == []
    assert list(asks_others(site, documents)) == []
    assert "COMMIT_RECORD" in (site / "failure-modes" / "FM_001.html").read_text()
    if shutil.which("chromium") is None:
        pytest.skip("there is no chromium (Debian: chromium)")
    look_at(site)


def look_at(site: Path) -> None:
    """From the disk, as from a server: pages fit the screen, the search finds, nobody is asked."""
    address = site.as_uri()
    with chromium() as browser:
        page = browser.new_page()
        wrong = watch(page, "file://")
        for width, height in (DESK, PHONE):
            page.set_viewport_size({"width": width, "height": height})
            for name in ("index", "first-job", "protocol", "comparison", "reference/api", "schema"):
                page.goto(f"{address}/{name}.html")
                expect(page.locator("h1")).to_be_visible()
                wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                assert wide <= 0, f"{name} is {wide} px too wide at {width}"
        page.set_viewport_size({"width": DESK[0], "height": DESK[1]})
        page.goto(f"{address}/index.html")
        page.get_by_placeholder("Search").fill("savepoint swallow")
        found = page.locator(".md-search-result__link").first
        expect(found).to_contain_text("savepoint", ignore_case=True, timeout=60_000)
        found.click()
        expect(page.locator("h1")).to_contain_text("FM_008")
        assert wrong() == []


def test_listings_are_as_the_source_is() -> None:
    """`uv run cog -r @website/cog.txt` makes them so."""
    ran("cog", "--check", "--diff", "@website/cog.txt")


def test_every_public_name_is_in_the_reference() -> None:
    described = re.findall(r"^::: jobq\.(?:\w+\.)*(\w+)$", page("reference/api.md"), re.MULTILINE)
    assert set(jobq.__all__) - set(described) == set()
    assert len(described) == len(set(described))


def test_every_check_of_doctor_is_explained() -> None:
    calls = [
        node.args[0]
        for node in ast.walk(ast.parse((ROOT / "jobq/doctor.py").read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding"
    ]
    checks = {call.value for call in calls if isinstance(call, ast.Constant)}
    assert len(checks) > 10
    explained = set(re.findall(r"^## (.+)$", page("doctor.md"), re.MULTILINE))
    assert explained == checks | {"dead jobs", "ambiguous jobs", "I1 to I10"}


def test_every_variable_is_in_the_reference() -> None:
    sources = [path.read_text() for path in (ROOT / "jobq").rglob("*.py")]
    read = {name for text in sources for name in re.findall(r"\"(_?JOBQ_[A-Z_]+)\"", text)}
    assert len(read) > 5
    assert {name for name in read if f"`{name}`" not in page("reference/configuration.md")} == set()


def test_the_landing_page_shows_what_the_readme_shows() -> None:
    """tests/docs/test_examples.py runs it."""
    (shown,) = re.findall(r"```python\n(.*?)```", page("index.md"), re.DOTALL)
    assert f"```python\n{shown}```" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "path",
    [*sorted(DOCS.rglob("*.md")), *sorted((ROOT / "postmortems").glob("*.md"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_page_reads_alike_on_github_and_on_the_site(path: Path) -> None:
    """Python-Markdown asks for more than GitHub: a blank line before a list, and four spaces before
    what belongs to an item after a blank line."""
    is_listing, before = False, ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_listing = not is_listing
        elif not is_listing:
            is_item = re.match(r"([-*]|\d+\.) ", line)
            goes_on = re.match(r"\s|[-*] |\d+\. |<!--", before) or not before.strip()
            assert goes_on or not is_item, f"line {number}: a list right after text"
            is_nested = re.match(r" {1,3}([-*]|\d+\.) ", line)
            assert not is_nested, f"line {number}: indent by four spaces"
            if not before.strip():
                assert not re.match(r" {1,3}\S", line), f"line {number}: indent by four spaces"
        before = line


def page(name: str) -> str:
    return (DOCS / name).read_text()

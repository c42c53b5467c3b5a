"""A hook of MkDocs: what the pages link to outside docs/ becomes part of the site.

A page says `../tests/x.py` or `../SECURITY.md`, which is right in a checkout and leads nowhere on a
site made of docs/ alone. So each file of the repository that is linked to gets a page: Markdown is
rendered, source is shown, pictures are copied; and the links lead there. Postmortems and the pages
about the project are there whether or not they are linked to. A link to what does not exist is left
as it is, for MkDocs to complain about.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound

ROOT = Path(__file__).resolve().parents[1]
PAGES = "docs"
POSTMORTEMS = "postmortems"
PROJECT = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
FOLDER = "repository"
"""Of the site, for what is in neither of them."""
PICTURES = {".gif", ".jpg", ".png", ".svg", ".webp"}
ICON = "jobq/dashboard/static/icon.svg"

LINK = re.compile(
    r"""(?P<before> \]\( | ^\[[^\]\n]+\]:\s+ )
        (?P<path> [^)\s\#:<>]+ ) (?P<after> (?: \#[^)\s]* )? (?: \) | \s*$ ) )""",
    re.MULTILINE | re.VERBOSE,
)


def place_of(path: str) -> str:
    """Where the site has a file of the repository, named from the repository's root."""
    if path.startswith(f"{PAGES}/"):
        return path.removeprefix(f"{PAGES}/")
    if path.startswith(f"{POSTMORTEMS}/") and path.endswith(".md"):
        return path
    is_as_it_is = path.endswith(".md") or Path(path).suffix in PICTURES
    return f"{FOLDER}/{path}" if is_as_it_is else f"{FOLDER}/{path}.md"


def links_of(path: str, markdown: str) -> Iterator[tuple[re.Match[str], str]]:
    """The links of a page to files that the repository has, each with the file's path."""
    for link in LINK.finditer(markdown):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link["path"]))
        if not target.startswith("..") and (ROOT / target).exists():
            yield link, target


def with_links_to_the_site(path: str, markdown: str) -> str:
    """The page's text, with the links that would leave docs/ led to their places in the site."""
    here = posixpath.dirname(place_of(path))
    parts, end = [], 0
    for link, target in links_of(path, markdown):
        if path.startswith(f"{PAGES}/") and target.startswith(f"{PAGES}/"):
            continue
        start, stop = link.span("path")
        parts += [markdown[end:start], posixpath.relpath(place_of(target), here or ".")]
        end = stop
    return "".join([*parts, markdown[end:]])


def page_of(path: str) -> str | bytes:
    """What the site shows of a file of the repository."""
    file = ROOT / path
    if file.suffix in PICTURES:
        return file.read_bytes()
    if file.suffix == ".md":
        return file.read_text()
    if file.is_dir():
        language, text = "text", "\n".join(sorted(one.name for one in file.glob("[!._]*")))
    else:
        language, text = language_of(file.name), file.read_text().rstrip()
    return (
        f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n# `{path}`\n\n"
        f'``````{language} linenums="1"\n{text}\n``````\n'
    )


def language_of(name: str) -> str:
    try:
        return str(get_lexer_for_filename(name).aliases[0])
    except ClassNotFound:
        return "docker" if name == "Containerfile" else "text"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages link to, and what those link to."""
    unread = [f"{PAGES}/{file.src_uri}" for file in files.documentation_pages()]
    postmortems = (ROOT / POSTMORTEMS).glob("*.md")
    in_nav = {*PROJECT, *(f"{POSTMORTEMS}/{page.name}" for page in postmortems)}
    added = sorted(in_nav)
    files.append(File.generated(config, "assets/icon.svg", content=(ROOT / ICON).read_text()))
    while unread or added:
        for path in added:
            level = InclusionLevel.INCLUDED if path in in_nav else InclusionLevel.NOT_IN_NAV
            shown = File.generated(config, place_of(path), content=page_of(path), inclusion=level)
            files.append(shown)
            if path.endswith(".md"):
                unread.append(path)
        added = []
        for path in unread:
            for _, target in links_of(path, (ROOT / path).read_text()):
                is_there = target in added or files.get_file_from_path(place_of(target)) is not None
                if not is_there and not target.startswith(f"{PAGES}/"):
                    added.append(target)
        unread = []
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead its links to the site."""
    place = page.file.src_uri
    if place.startswith(f"{FOLDER}/"):
        path = place.removeprefix(f"{FOLDER}/")
        if not (ROOT / path).is_file():
            return markdown  # source, which has no links
    else:
        path = place if place.startswith(f"{POSTMORTEMS}/") else f"{PAGES}/{place}"
    return with_links_to_the_site(path, markdown)

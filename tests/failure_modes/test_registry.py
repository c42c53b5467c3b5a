"""Every failure mode has all its parts: scenario, tests, page, and a line in the index."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import ModuleType

import pytest

from jobq.failure_modes import registry
from jobq.failure_modes.catalogue import FailureMode

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "failure-modes"
INVARIANTS = {*(f"I{number}" for number in range(1, 11)), "liveness"}
HEADINGS = (
    "## Trigger",
    "## The interleaving",
    "## The fix",
    "## How peers fare",
    "## Public incidents",
)

every_failure_mode = pytest.mark.parametrize(
    "module", registry.MODULES, ids=lambda module: module.FM.id
)


def name_of(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def test_ids_are_unique_and_in_order() -> None:
    ids = [mode.id for mode in registry.FAILURE_MODES]
    assert ids == sorted(set(ids))


def test_every_test_module_and_page_belongs_to_a_failure_mode() -> None:
    ids = {mode.id for mode in registry.FAILURE_MODES}
    assert {path.stem for path in PAGES.glob("FM_*.md")} == ids
    assert {path.stem for path in Path(__file__).parent.glob("test_fm_*.py")} == {
        f"test_{name_of(module)}" for module in registry.MODULES
    }


@every_failure_mode
def test_the_module_is_named_after_its_failure_mode(module: ModuleType) -> None:
    mode: FailureMode = module.FM
    assert name_of(module).startswith(f"{mode.id.lower()}_")
    assert (module.__doc__ or "").startswith(f"{mode.id}: ")
    assert set(mode.invariants) <= INVARIANTS
    assert mode.invariants


@every_failure_mode
def test_its_tests_tell_the_story_reproduce_and_prevent(module: ModuleType) -> None:
    path = Path(__file__).parent / f"test_{name_of(module)}.py"
    tree = ast.parse(path.read_text())
    story = ast.get_docstring(tree) or ""
    tests = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert story.startswith(f"{module.FM.id}: ")
    assert len(story.splitlines()) >= 3, "the story is more than its title"
    assert any(name.startswith("test_reproduces_") for name in tests)
    assert any(name.startswith("test_prevented_") for name in tests)


@every_failure_mode
def test_its_page_has_every_part(module: ModuleType) -> None:
    mode: FailureMode = module.FM
    page = (PAGES / f"{mode.id}.md").read_text()
    assert page.startswith(f"# {mode.id}: {mode.title}\n")
    missing = [heading for heading in HEADINGS if f"\n{heading}\n" not in page]
    assert not missing
    assert f"tests/failure_modes/test_{name_of(module)}.py" in page
    breaks = re.search(r"^\| Breaks \| (.*) \|$", page, re.MULTILINE)
    assert breaks is not None
    assert all(re.search(rf"\b{invariant}\b", breaks[1]) for invariant in mode.invariants)
    for backend, reason in (
        ("PostgreSQL", mode.not_on_postgresql),
        ("SQLite", mode.not_on_sqlite),
    ):
        assert reason is None or f"Not on {backend}" in page


@every_failure_mode
def test_the_index_lists_it(module: ModuleType) -> None:
    index = (PAGES / "README.md").read_text()
    assert f"[{module.FM.id}]({module.FM.id}.md) | {module.FM.title} |" in index

"""Nothing that is stored can become code: the package's own source shows it."""

from __future__ import annotations

import ast
import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import jobq
from jobq import Bury, Job, JobQueue
from jobq.commit import Relay
from jobq.testing.stepwise import StepwiseWorker
from jobq.worker.processes import Where

PACKAGE = Path(jobq.__file__).parent
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "migrations").rglob("*.py")])

# What makes objects or code of bytes or text.
MODULES = {
    "code",
    "codeop",
    "cloudpickle",
    "cPickle",
    "dill",
    "jsonpickle",
    "marshal",
    "pickle",
    "runpy",
    "shelve",
    "yaml",
}
CALLS = {"eval", "exec", "compile", "__import__"}
PROCESSES = {"multiprocessing", "pebble"}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def called(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id
            elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                yield f"{node.func.value.id}.{node.func.attr}"


def forbidden(source: str) -> set[str]:
    tree = ast.parse(source)
    calls = set(called(tree))
    return (set(imported(tree)) & MODULES) | (
        calls & (CALLS | {f"builtins.{name}" for name in CALLS})
    )


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from marshal import loads",
        "import os, shelve as s",
        "eval('1')",
        "x = [exec(y) for y in z]",
        "import builtins\nbuiltins.eval('1')",
        "__import__('os')",
    ],
)
def test_the_walk_finds_what_it_looks_for(source: str) -> None:
    assert forbidden(source)


def test_the_walk_leaves_the_harmless_alone() -> None:
    assert not forbidden("import re\nre.compile('x')\nconnection.execute('SELECT 1')")


def test_nothing_in_the_package_makes_code_or_objects_of_data() -> None:
    assert len(SOURCES) > 100
    found = {str(path): names for path in SOURCES if (names := forbidden(path.read_text()))}
    assert found == {}


def test_only_handler_processes_speak_by_pickle() -> None:
    """multiprocessing and Pebble pickle by themselves what goes between parent and child."""
    speaks = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in SOURCES
        if set(imported(ast.parse(path.read_text()))) & PROCESSES
    }
    assert speaks == {"jobq/worker/processes.py"}


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("of the handler's own kind")
        self.thing = lambda: None


class Thing:
    """Nothing that JSON or a report could hold."""


class Recording(pickle.Unpickler):
    """Notes which classes and functions are looked up."""

    def __init__(self, value: object) -> None:
        super().__init__(io.BytesIO(pickle.dumps(value)))
        self.modules: set[str] = set()

    def find_class(self, module: str, name: str) -> object:
        self.modules.add(module)
        return super().find_class(module, name)


def modules_in(value: object) -> set[str]:
    recording = Recording(value)
    assert recording.load() == value
    return recording.modules


def test_what_crosses_to_a_child_and_back_is_jobqs_own(sqlite_url: str) -> None:
    app = JobQueue(sqlite_url)

    @app.task(name="returns")
    def returns(job: Job, text: str) -> list[str]:
        return [text, str(job.id)]

    @app.task(name="raises")
    def raises(text: str) -> None:
        raise Unpicklable

    @app.task(name="buries")
    def buries(text: str) -> None:
        raise Bury(text)

    @app.task(name="returns what it should not")
    def returns_thing(text: str) -> str:
        return Thing()  # type: ignore[return-value]

    for task in app.tasks.values():
        task.enqueue(text="builtins.eval")
    worker = StepwiseWorker(app)
    crossed: set[str] = set()
    reports = set()
    for _ in app.tasks:
        claimed = worker.claim(None)
        assert claimed is not None
        where = Where(sqlite_url, "jobq", 1.0, is_pooled=False, worker="w")
        crossed |= modules_in((("m", "f"), where, claimed, 64))
        report = worker.attempt(claimed).run_in_thread(Relay(lambda _, __: None))
        reports.add(type(report).__name__)
        crossed |= modules_in(report)
    worker.close()
    app.close()
    assert reports == {"Returned", "FailedAttempt"}
    assert {module for module in crossed if not module.startswith("jobq.")} == {"uuid", "datetime"}

"""Listings taken from the source, for the blocks of cog in the Markdown pages.

    <!-- [[[cog sql("jobq.store.postgres", "COMMIT_RECORD") ]]] -->
    <!-- [[[end]]] -->

`uv run cog -r @website/cog.txt` writes them anew; `uv run cog --check @website/cog.txt` tells
whether they are as the source is, and tests/docs asks that.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import dedent

from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
HELP_COLUMNS = 96


def sql(module: str, constant: str, *, part: str | None = None, schema: str = "jobq") -> None:
    """Show a module's SQL; of a statement with CTEs only the one named `part`.

    Parameters are shown as `$name`, tables with the default schema.
    """
    text: str = getattr(importlib.import_module(module), constant)
    where = f"{constant} in {module.replace('.', '/')}.py"
    if part is not None:
        text = _cte(text, part)
        where = f"{part}, of {where}"
    shown = "\n".join(_readable(text.strip().splitlines(), schema))
    _fenced("sql", f"-- {where}\n{shown}")


def source(path: str, name: str) -> None:
    """Show a function, a class or a method (`Class.method`) of a Python file, as it is."""
    text = (ROOT / path).read_text()
    found = _definition(ast.parse(text).body, name.split("."), path)
    first = min([found.lineno, *(one.lineno for one in found.decorator_list)])
    lines = text.splitlines()[first - 1 : found.end_lineno]
    _fenced("python", f"# {path}\n" + dedent("\n".join(lines)))


def text_of(path: str, language: str = "text") -> None:
    """Show a file."""
    _fenced(language, (ROOT / path).read_text().strip())


def cli(command: str) -> None:
    """Show a command of jobq's that only prints, as `jobq doctor --help`, and what it prints."""
    _fenced("console", f"$ {command}\n{_printed(command)}")


def _printed(command: str) -> str:
    from jobq.cli import main

    program, *arguments = shlex.split(command)
    assert program == "jobq", command
    runner = CliRunner(env={"NO_COLOR": "1"})
    result = runner.invoke(main, arguments, prog_name="jobq", terminal_width=HELP_COLUMNS)
    assert result.exit_code == 0, result.output
    return result.output.strip()


def _fenced(language: str, text: str) -> None:
    print(f"```{language}\n{text}\n```")


def _readable(lines: Iterable[str], schema: str) -> Iterator[str]:
    """Without the driver's spelling; what stood under an opening bracket still stands there."""
    before, before_shown = "", ""
    for line in lines:
        shown = re.sub(r"%\((\w+)\)s", r"$\1", line.replace("{schema}", schema))
        opened = _opened(before)
        if opened is not None and re.match(rf" {{{opened + 1}}}\S", line):
            shown = " " * ((_opened(before_shown) or 0) + 1) + shown.lstrip()
        yield shown
        before, before_shown = line, shown


def _opened(line: str) -> int | None:
    """The column of the last bracket that is not closed in the line."""
    columns: list[int] = []
    for column, letter in enumerate(line):
        if letter == "(":
            columns.append(column)
        elif letter == ")" and columns:
            columns.pop()
    return columns[-1] if columns else None


def _cte(statement: str, name: str) -> str:
    begun = re.search(rf"^(?:WITH |\), ){name} AS (?:MATERIALIZED )?\(\n", statement, re.MULTILINE)
    assert begun, f"there is no {name} in {statement}"
    body = statement[begun.end() :]
    end = re.search(r"^\)", body, re.MULTILINE)
    assert end, f"{name} does not end"
    return dedent(body[: end.start()])


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _definition(body: list[ast.stmt], names: list[str], path: str) -> Definition:
    first, *rest = names
    found = next(one for one in _definitions(body, path) if one.name == first)
    return _definition(found.body, rest, path) if rest else found


def _definitions(body: list[ast.stmt], path: str) -> Iterator[Definition]:
    for statement in body:
        if isinstance(statement, Definition):
            yield statement

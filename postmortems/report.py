"""From a run to its report, and the command that makes both.

A report is written as a Jinja template, and every figure in it is taken from the run that is kept
beside it. What it links to must exist: a piece of code by its file and a word in it, a test by its
id.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import click
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from tabulate import tabulate

from postmortems.scene import ROOT, clock

RUN, TEMPLATE, REPORT = "run.json", "report.md.j2", "README.md"
QUEUES = {"naive": "the first queue", "jobq": "jobq"}
NUMBERS = re.compile(r"\[\s+((?:-?[\d.]+,?\s+)+)\]")

Run = Mapping[str, Any]


class Draw(Protocol):
    def __call__(self, run: Run, folder: Path, ending: str = "svg") -> None: ...


# -- what a template can say


def money(cents: int) -> str:
    return f"€{cents / 100:,.2f}"


def number(value: float) -> str:
    return f"{value:,}"


def code(path: str, word: str) -> str:
    """A link to a file, by a word that is in it. Raises ValueError."""
    if word not in (ROOT / path).read_text():
        raise ValueError(f"{path} has no {word}")
    return f"[`{word}`](../../{path})"


def guard(node: str) -> str:
    """A link to a test, by its pytest id. Raises ValueError."""
    path, _, name = node.partition("::")
    if name not in names_of_tests_in(ROOT / path):
        raise ValueError(f"there is no test {node}")
    return f"[`{name}`](../../{path})"


def page(path: str, text: str) -> str:
    """A link to another page of the repository. Raises ValueError."""
    if not (ROOT / path.partition("#")[0]).exists():
        raise ValueError(f"there is no {path}")
    return f"[{text}](../../{path})"


def names_of_tests_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, functions) and node.name.startswith("test_")
    }


def at(run: Run, key: str) -> str:
    """When an event of a run took place, as T+mm:ss."""
    return clock(seconds(run, key))


def seconds(run: Run, key: str) -> float:
    return float(next(event["at_s"] for event in run["events"] if event["key"] == key))


def found(run: Run) -> str:
    """When reconciliation found something first, as T+mm:ss."""
    return clock(next(each["at_s"] for each in run["events"] if each["key"].startswith("found_")))


def render(folder: Path, run: Run) -> str:
    environment = Environment(  # noqa: S701 - Markdown
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"money": money, "n": number, "clock": clock}
    environment.globals |= {
        "code": code, "guard": guard, "page": page, "at": at, "seconds": seconds, "found": found
    }  # fmt: skip
    return environment.get_template(TEMPLATE).render(run=run, **run)


# -- what is kept of a run


def as_json(run: Run) -> str:
    """With a list of numbers on one line."""
    text = json.dumps(run, indent=1, ensure_ascii=False)
    return NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def kept(folder: Path) -> Run:
    run: Run = json.loads((folder / RUN).read_text())
    return run


def keep(folder: Path, run: Run, draw: Draw) -> None:
    """Write the run, its plots and its report."""
    (folder / RUN).write_text(as_json(run))
    draw(run, folder)
    (folder / REPORT).write_text(render(folder, run))


# -- the command


def play_both(play: Callable[..., dict[str, Any]], settings: Any) -> Run:
    """The incident on the first queue, then on jobq."""
    run: dict[str, Any] = {"settings": asdict(settings)}
    for queue, name in QUEUES.items():
        click.echo(f"{name}:")
        run[queue] = play(settings, is_naive=queue == "naive")
    return run


def command(
    folder: Path,
    play: Callable[..., dict[str, Any]],
    settings: Any,
    small: Any,
    draw: Draw,
    unmet: Callable[[Run], list[str]],
) -> click.Command:
    """The command line of a simulated incident."""

    @click.command()
    @click.option("--small", "is_small", is_flag=True, help="A few orders, for a few seconds.")
    @click.option("--keep", "is_kept", is_flag=True, help="Rewrite run.json, plots and report.")
    @click.option("--render", "is_rendered", is_flag=True, help="Only plots and report, no run.")
    def main(is_small: bool, is_kept: bool, is_rendered: bool) -> None:
        if is_small and is_kept:
            raise click.UsageError("a report is written about a run of the full size")
        if is_rendered:
            keep(folder, kept(folder), draw)
            return
        run = play_both(play, small if is_small else settings)
        click.echo(table(run))
        if missing := unmet(run):
            raise click.ClickException("not borne out: " + "; ".join(missing))
        if is_kept:
            if run["jobq"]["alerts"] is None:
                raise click.ClickException("the report says which alerts fired: install promtool")
            keep(folder, run, draw)

    return main


def table(run: Run) -> str:
    """The figures of both queues beside each other."""
    names = list(run["naive"]["figures"])
    rows = [[name, *(run[queue]["figures"][name] for queue in QUEUES)] for name in names]
    return tabulate(rows, headers=["", *QUEUES.values()])

"""Lists and tables for the reference, made by cog from what the code says: see `listings`."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from website.crossrefs import with_pages

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs/failure-modes"
HOUR_S, DAY_S = 3_600, 86_400
ALL = ("liveness", *(f"I{number}" for number in range(1, 11)))


# -- the command line


def commands() -> None:
    """Show every command of jobq's, with its arguments and options."""
    from jobq.cli import main

    context = click.Context(main, info_name="jobq")
    for name in main.list_commands(context):
        _show_command(main.get_command(context, name), ("jobq", name))


def _show_command(command: click.Command | None, path: Sequence[str]) -> None:
    assert command is not None, path
    called = " ".join(path)
    context = click.Context(command, info_name=called)
    print(f"\n{'#' * len(path)} {called}\n")
    print(inspect.cleandoc(command.help or ""))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            _show_command(command.get_command(context, name), (*path, name))
        return
    print(f"\n```text\n{called} {' '.join(command.collect_usage_pieces(context))}\n```\n")
    for option in command.get_params(context):
        record = option.get_help_record(context)
        says_something = record is not None and (record[1] or isinstance(option, click.Option))
        if record is not None and says_something and "--help" not in option.opts:
            print(f"- `{record[0]}`: {_sentence(record[1])}".removesuffix(": "))


def _sentence(told: str) -> str:
    """Its help, with what click puts in brackets set apart."""
    text, *extra = re.split(r"\s*(\[(?:default|env|required|[\d<>=x]+)[^\]]*\])", told)
    notes = " ".join(f"`{one[1:-1]}`" for one in extra if one.strip())
    return f"{text.strip()} {notes}".strip()


# -- arguments and settings


def arguments(module: str, name: str) -> None:
    """Show the keyword arguments of a function or a class, as its docstring tells of them."""
    made: Any = importlib.import_module(module)
    for part in name.split("."):
        made = getattr(made, part)
    told = _told(inspect.getdoc(made) or "")
    rows = []
    for parameter in inspect.signature(made).parameters.values():
        if parameter.name == "self" or parameter.kind is parameter.POSITIONAL_ONLY:
            continue
        assert parameter.name in told, f"{name}: nothing is said of {parameter.name}"
        rows.append(
            (parameter.name, _default(parameter.name, parameter.default), told[parameter.name])
        )
    _table(("argument", "default", "what it says"), rows)


def fields(module: str, name: str) -> None:
    """Show the fields of a dataclass, as the texts under them tell of them."""
    source = Path(inspect.getfile(importlib.import_module(module))).read_text()
    body = next(
        one.body
        for one in ast.parse(source).body
        if isinstance(one, ast.ClassDef) and one.name == name
    )
    rows = []
    for one, following in pairwise(body):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            assert isinstance(following, ast.Expr), f"nothing is said of {one.target.id}"
            value = None if one.value is None else ast.literal_eval(one.value)
            default = _default(one.target.id, value)
            told = " ".join(ast.literal_eval(following.value).split())
            rows.append((one.target.id, default, told))
    _table(("argument", "default", "what it says"), rows)


def constants(*named: tuple[str, str, str]) -> None:
    """Show numbers that cannot be set: each is a module, a name, and what it is."""
    rows = []
    for module, name, what in named:
        value = getattr(importlib.import_module(module), name)
        where = f"{module.replace('.', '/')}.py"
        rows.append((name, f"{value:,}" if isinstance(value, int) else f"{value:g}", what, where))
    print("\n| name | value | what it is | where |\n|---|---|---|---|")
    for name, shown, what, where in rows:
        print(f"| `{name}` | {shown} | {what} | `{where}` |")
    print()


def connection_defaults() -> None:
    """Show what libpq is told unless the URL says otherwise."""
    from jobq.database.postgres import _CONNECTION_DEFAULTS

    print("\n| libpq's parameter | set to |\n|---|---|")
    for name, value in _CONNECTION_DEFAULTS.items():
        print(f"| `{name}` | {value:,} |" if isinstance(value, int) else f"| `{name}` | {value} |")
    print()


def _told(docstring: str) -> dict[str, str]:
    """What the list in a docstring says of each argument."""
    found = {}
    for item in re.findall(r"^- (`.+?(?=\n- |\n\n|\Z))", docstring, re.MULTILINE | re.DOTALL):
        names, _, text = " ".join(item.split()).partition(": ")
        for name in re.findall(r"`(\w+)`", names):
            found[name] = with_pages(text[0].upper() + text[1:])
    return found


def _default(name: str, value: object) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    if isinstance(value, StrEnum):
        return f"`{value.value!r}`"
    if isinstance(value, float):
        return f"`{value:.10g}`{_as_time(name, value)}"
    if value is None or isinstance(value, str | int | tuple):
        return f"`{value!r}`"
    return f"`{type(value).__name__}()`"


def _as_time(name: str, value: float) -> str:
    """A long time in hours or days, too."""
    if not name.endswith("_s") or value < HOUR_S:
        return ""
    return f" ({value / DAY_S:g} days)" if value >= DAY_S else f" ({value / HOUR_S:g} h)"


def _table(headings: Sequence[str], rows: Iterable[tuple[str, str, str]]) -> None:
    print(f"\n| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
    for name, default, text in rows:
        print(f"| `{name}` | {default} | {text} |")
    print()


# -- metrics


def metrics_of_attempts() -> None:
    """Show the metrics that a worker's process counts."""
    from prometheus_client import CollectorRegistry

    from jobq.prometheus import Prometheus

    made = Prometheus(CollectorRegistry())
    rows = []
    for metric in vars(made._metrics).values():  # noqa: SLF001
        described = metric.describe()[0]
        name = described.name + ("_total" if described.type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # noqa: SLF001
        rows.append((name, described.type, labels, described.documentation))
    _metrics(rows)


def metrics_of_queue() -> None:
    """Show the metrics that are read from the database."""
    from jobq.prometheus import HELP, _families
    from jobq.protocol.states import State
    from jobq.store.gauges import Gauges

    one = Gauges(
        jobs={(State.READY, "q"): 1},
        oldest_due_s={"q": 1.0},
        overdue_s=0.0,
        expired_leases=0,
        paused=frozenset({"q"}),
        workers={"alive": 1},
        revision="1",
    )
    labels = {
        family.name: [f"`{label}`" for label in family.samples[0].labels]
        for family in _families(one)
    }
    _metrics((name, "gauge", ", ".join(labels.get(name, [])), text) for name, text in HELP.items())


def _metrics(rows: Iterable[tuple[str, str, str, str]]) -> None:
    print("\n| metric | kind | labels | |\n|---|---|---|---|")
    for name, kind, labels, text in rows:
        print(f"| `{name}` | {kind} | {labels} | {text} |")
    print()


# -- invariants and failure modes


def invariant(id: str) -> None:  # noqa: A002
    """Show the queries that find what violates an invariant."""
    from jobq.invariants import INVARIANTS

    for one in INVARIANTS:
        if one.id == id:
            print(f"```sql\n-- {one.claim}: or these rows violate it\n{one.query.strip()}\n```\n")


def failure_modes() -> None:
    """Show the table of the failure modes that have a page."""
    print("\n| | failure mode | breaks |\n|---|---|---|")
    for page, title, broken in _failure_modes():
        print(f"| [{page.stem}]({page.name}) | {title} | {' '.join(broken)} |")
    print()


def broken_by(id: str) -> None:  # noqa: A002
    """Show which failure modes break an invariant, as links from docs/."""
    found = [
        f"[{page.stem}](failure-modes/{page.name})"
        for page, _, broken in _failure_modes()
        if id in broken
    ]
    print(f"Broken by: {', '.join(found) or 'none of the failure modes'}.")


def _failure_modes() -> Iterator[tuple[Path, str, list[str]]]:
    for page in sorted(PAGES.glob("FM_*.md")):
        text = page.read_text()
        title = re.search(r"^# FM_\d+: (.+)$", text, re.MULTILINE)
        breaks = re.search(r"^\| Breaks \| (.+) \|$", text, re.MULTILINE)
        assert title, f"{page.name} has no title like '# FM_001: ...'"
        assert breaks, f"{page.name} does not say what it breaks"
        named = re.findall(r"\b(?:I\d+|liveness)\b", breaks[1])
        yield page, title[1], sorted(set(named), key=_order)


def _order(name: str) -> int:
    return len(ALL) if name == "liveness" else ALL.index(name)


# -- the scoreboard


def scoreboard(*scenarios: str) -> None:
    """Show what became of each queue in these scenarios."""
    from scoreboard import page

    print(page.table(page.saved(), only=scenarios))

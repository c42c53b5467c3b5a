"""`jobq fm list` and `jobq fm run`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import click

from jobq.cli import options
from jobq.errors import MissingExtra
from jobq.failure_modes import live
from jobq.failure_modes.catalogue import FailureMode
from jobq.failure_modes.registry import FAILURE_MODES
from jobq.throwaway import server_of

BY_ID = {mode.id: mode for mode in FAILURE_MODES}


@click.group()
def fm() -> None:
    """The failure modes of job queues: what they are, and what jobq makes of them."""


@fm.command("list")
def list_() -> None:
    """Show the catalogue: each failure mode and the invariants it breaks."""
    width = max(len(mode.title) for mode in FAILURE_MODES)
    for mode in FAILURE_MODES:
        click.echo(f"{mode.id}  {mode.title:{width}}  {' '.join(mode.invariants)}")


@fm.command()
@options.database_url
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, nothing else.")
@click.argument("ids", nargs=-1, metavar="[FM_001 ...]")
def run(ids: tuple[str, ...], database_url: str | None, as_json: bool) -> None:
    """Bring failure modes about, all of them or those named, and show what jobq does instead.

    Each is played twice: on a variant that lacks the guard, to see the harm, and on jobq, in the
    same interleaving or under the same fault. Exit code 0 only when every harm was seen and
    every one was prevented.

    Without a database URL a throwaway PostgreSQL is started. With one, the failure modes make
    the schema jobq_fm there (or, on SQLite, the file named) and remove it afterwards; those that
    stop and start the server do so on one of their own.
    """
    modes = _named(ids)
    if not as_json and find_spec("rich") is None:
        raise MissingExtra("the table of jobq fm run", "demo")
    # What breaks under these scenarios is meant to; the pool would tell of every connection.
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
    results = []
    with server_of(database_url) as url:
        for result in live.play(modes, url):
            results.append(result)
            click.echo(f"{result.mode.id}  {_verdict(result)}", err=True)
    if as_json:
        click.echo(json.dumps([result.as_dict() for result in results], indent=2))
    else:
        _print_table(results)
    sys.exit(0 if all(result.is_as_claimed for result in results) else 1)


def _named(ids: Sequence[str]) -> list[FailureMode]:
    unknown = [given for given in ids if given.upper() not in BY_ID]
    if unknown:
        raise click.BadParameter(
            f"there is no {', '.join(unknown)}: `jobq fm list` shows those there are"
        )
    return [BY_ID[given.upper()] for given in ids] or list(FAILURE_MODES)


def _verdict(result: live.Result) -> str:
    if result.reproduced is None:
        return "not played here"
    return ", ".join(
        (
            "reproduced" if result.reproduced else "NOT REPRODUCED",
            "prevented" if result.prevented else "NOT PREVENTED",
        )
    )


def _print_table(results: Sequence[live.Result]) -> None:
    from rich.console import Console  # not needed for --json
    from rich.table import Table
    from rich.text import Text

    table = Table("", "failure mode", "without the guard", "jobq", show_lines=True)
    for result in results:
        harm_style = {True: "red", False: "bold red", None: "dim"}[result.reproduced]
        ours_style = {True: "green", False: "bold red", None: "dim"}[result.prevented]
        table.add_row(
            result.mode.id,
            result.mode.title,
            Text(result.harm, harm_style),
            Text(result.instead, ours_style),
        )
    console = Console(highlight=False)
    console.print(table)
    played = [result for result in results if result.reproduced is not None]
    reproduced = sum(bool(result.reproduced) for result in played)
    prevented = sum(bool(result.prevented) for result in played)
    skipped = len(results) - len(played)
    console.print(
        f"{reproduced} of {len(played)} harms reproduced without the guard; "
        f"{prevented} of {len(played)} prevented by jobq"
        + (f"; {skipped} cannot be played on this database." if skipped else "."),
        style="bold green" if all(result.is_as_claimed for result in results) else "bold red",
    )

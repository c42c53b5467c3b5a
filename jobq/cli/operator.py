"""What the operator's commands share: the queue, who acts, times, tables and JSON."""

from __future__ import annotations

import functools
import getpass
import json
import re
import socket
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import click
import msgspec

from jobq import JobQueue
from jobq.cli import options

UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
WIDEST_CELL = 60

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")


class Seconds(click.ParamType[float]):
    """A time like 30d, 12h, 90m or 7200s, in seconds."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = re.fullmatch(r"(\d{1,12})([smhd])", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no time: write number and unit, as in 30d or 12h", param)
        return float(int(found[1]) * UNITS_S[found[2]])


class Moment(click.ParamType[datetime]):
    """A point in time: ISO 8601 with its offset."""

    name = "moment"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no point in time: write 2026-12-01T08:00+01:00", param)
        if moment.utcoffset() is None:
            self.fail(f"{value!r} has no time zone: write 2026-12-01T08:00+01:00", param)
        return moment


def with_queue(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command a `JobQueue` on the database that is named, and keep account of who acts."""

    @options.database_url
    @options.schema
    @click.option(
        "--pooled",
        is_flag=True,
        envvar="JOBQ_POOLED",
        help="The URL is that of PgBouncer in transaction mode.  [env: JOBQ_POOLED]",
    )
    @functools.wraps(command)
    def run(*args: Any, database_url: str | None, schema: str, pooled: bool, **kwargs: Any) -> Any:
        queue = JobQueue(database_url, schema=schema, pooled=pooled, max_connections=2)
        try:
            with queue.acting_as(f"{getpass.getuser()}@{socket.gethostname()}"):
                return command(queue, *args, **kwargs)
        finally:
            queue.close()

    return run


def print_json(told: object) -> None:
    click.echo(json.dumps(told, ensure_ascii=False, indent=2))


def plain(told: Any) -> Any:
    """The value as JSON has it; what is stored as JSON text comes as what it says."""
    built = msgspec.to_builtins(told)

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: _read(inner) if key in STORED_AS_JSON else read(inner)
                for key, inner in value.items()
            }
        return [read(inner) for inner in value] if isinstance(value, list) else value

    return read(built)


STORED_AS_JSON = frozenset({"args", "result", "headers"})


def _read(text: Any) -> Any:
    return json.loads(text) if isinstance(text, str) else text


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from tabulate import tabulate

    shown = [["" if cell is None else _short(str(cell)) for cell in row] for row in rows]
    click.echo(tabulate(shown, headers=headings, tablefmt="plain", disable_numparse=True))


def _short(text: str) -> str:
    flat = " ".join(text.split())
    # Whatever was stored, a terminal is not to be steered by it.
    printable = "".join(
        sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in flat
    )
    return printable if len(printable) <= WIDEST_CELL else f"{printable[: WIDEST_CELL - 1]}…"


def moment(at: datetime | None) -> str:
    """In the terminal's own time zone, to the second."""
    return "" if at is None else f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def duration(seconds: float) -> str:
    """Short, as in 12s, 4m 10s, 3h 2m or 5d 1h."""
    whole = timedelta(seconds=max(0, round(seconds)))
    hours, rest = divmod(whole.seconds, 3_600)
    minutes, left = divmod(rest, 60)
    parts = [(whole.days, "d"), (hours, "h"), (minutes, "m"), (left, "s")]
    first = next((n for n, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count) or "0s"

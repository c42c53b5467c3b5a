"""How commands that go on for long write their logs."""

from __future__ import annotations

import logging
from typing import Any

import click

from jobq.errors import MissingExtra

level = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
form = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: an object for each line, with the fields of docs/observability.md.",
)


def configure(log_level: str, log_format: str) -> None:
    """Have the process log to stderr. Raises MissingExtra."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _json()
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=log_level.upper(), handlers=[handler])


def _json() -> Any:
    try:
        from pythonjsonlogger.json import JsonFormatter
    except ImportError as error:
        raise MissingExtra("--log-format json", "json") from error
    return JsonFormatter(
        ["levelname", "name", "message"],
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp=True,
    )

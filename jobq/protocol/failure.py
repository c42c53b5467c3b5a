"""An exception as text that every database can store."""

from __future__ import annotations

import traceback

from jobq.protocol.values import AttemptError

MAX_MESSAGE_CHARACTERS = 2_000
MAX_TRACEBACK_CHARACTERS = 16_000
IMPORTED_FROM_JOBQ = ("jobq.errors", "jobq.job")
"""Modules whose exceptions are told by the name that users import."""


def describe_error(error: BaseException) -> AttemptError:
    """Return the error's type, message and traceback, storable and of bounded size.

    The report of a failure must never fail itself: characters that PostgreSQL or UTF-8 cannot
    hold are replaced, and a `__str__` that raises is told as such.
    """
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        module = "jobq" if kind.__module__ in IMPORTED_FROM_JOBQ else kind.__module__
        name = f"{module}.{name}"
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - a handler's exception class may do anything
        message = f"<str() of the exception raised {type(broken).__name__}>"
    try:
        frames = "".join(traceback.format_exception(error))
    except Exception as broken:  # noqa: BLE001 - as above
        frames = f"<the traceback could not be formatted: {type(broken).__name__}>"
    return AttemptError(
        type=storable(name)[:MAX_MESSAGE_CHARACTERS],
        message=_head(storable(message), MAX_MESSAGE_CHARACTERS),
        traceback=_tail(storable(frames), MAX_TRACEBACK_CHARACTERS),
    )


def storable(text: str) -> str:
    """Return `text` without what PostgreSQL's text cannot hold: NUL and lone surrogates."""
    return text.replace("\x00", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode("utf-8")


def _head(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _tail(text: str, limit: int) -> str:
    """Keep the end: a traceback's last lines say what happened."""
    return text if len(text) <= limit else "\N{HORIZONTAL ELLIPSIS}" + text[1 - limit :]

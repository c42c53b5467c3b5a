"""What a handler may say of how far it has come."""

from __future__ import annotations

from typing import NamedTuple

from jobq.errors import InvalidOption
from jobq.protocol.failure import storable

MAX_NOTE_CHARACTERS = 1_000


class Told(NamedTuple):
    """A fraction from 0 to 1, a note, or both."""

    fraction: float | None
    note: str | None


def check_progress(told: Told) -> None:
    """Raises InvalidOption."""
    if told.fraction is not None and not 0 <= told.fraction <= 1:
        raise InvalidOption(f"progress {told.fraction}: a fraction is from 0 to 1")
    note = told.note
    if note is not None and (len(note) > MAX_NOTE_CHARACTERS or storable(note) != note):
        raise InvalidOption(
            f"progress note {note[:40]!r}: at most {MAX_NOTE_CHARACTERS:,} characters, no NUL and "
            "no lone surrogate among them"
        )

"""The cuts at which an attempt can be interrupted.

A module of its own, which imports nothing: pytest asks for their names wherever jobq is installed.
"""

from __future__ import annotations

from enum import StrEnum


class Interruption(StrEnum):
    """Where an attempt is interrupted.

    A handler that has no effect in the queue's database is killed, instead, before it begins (or,
    when it takes the job, at its end), at its end, and after its record; and overtaken at its end.
    """

    BEFORE_EFFECT = "killed_before_effect"
    """The worker dies when the effect's transaction is about to begin."""
    INSIDE_EFFECT = "killed_inside_effect"
    """It dies when the handler's statements are done, before their COMMIT."""
    AFTER_COMMIT = "killed_after_commit"
    """It dies when effect and record are committed, before it could tell."""
    OVERTAKEN = "overtaken"
    """It is frozen when the effect's transaction is about to begin; its lease expires, another
    attempt runs to its end, and then this one goes on."""

"""What a database refuses to a role, and what no database takes, as jobq's errors."""

from __future__ import annotations

from jobq.errors import InvalidOption, NotPermitted

INSUFFICIENT_PRIVILEGE = "42501"


def not_permitted(who: str, reason: str) -> NotPermitted:
    """`who`: whose statement was refused; `reason`: the server's own, which names the table."""
    return NotPermitted(
        f"{who}: {reason}. Connect as a role that may: workers and operators need to be members of "
        "the worker role, see `jobq roles`; if they are and jobq was upgraded since, run "
        "`jobq roles grant` again"
    )


def not_storable(reason: Exception) -> InvalidOption:
    """A name to look for, say; what is stored is checked before."""
    first = str(reason).partition("\n")[0]
    return InvalidOption(f"a value was given that the database cannot hold or compare: {first}")

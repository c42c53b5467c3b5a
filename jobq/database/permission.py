"""What PostgreSQL refuses a role, as jobq's error."""

from __future__ import annotations

from jobq.errors import NotPermitted

INSUFFICIENT_PRIVILEGE = "42501"


def not_permitted(who: str, reason: str) -> NotPermitted:
    """`who`: whose statement was refused; `reason`: the server's own, which names the table."""
    return NotPermitted(
        f"{who}: {reason}. Connect as a role that may: workers and operators need to be members of "
        "the worker role, see `jobq roles`; if they are and jobq was upgraded since, run "
        "`jobq roles grant` again"
    )

"""Which migrations this version has, and whether a database is at the newest. No Alembic here:
every worker asks, few migrate."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jobq.errors import NotMigrated, SchemaTooNew

# Two deploys that upgrade at once take turns; any number will do, as long as it is ours.
MIGRATION_LOCK = 0x6A6F6271
TURN_TIMEOUT_S = 10.0
"""How long a deploy waits for another one's migration."""
LOCK_TIMEOUT_S = 1.0
"""How long a migration waits for a table; so long no claim goes on."""


@cache
def migrations_path() -> Path:
    """Return the folder of the migrations: in the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    shipped = package / "migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


@cache
def revisions() -> tuple[str, ...]:
    """Return this version's revisions, oldest first: the numbers the files begin with."""
    files = (migrations_path() / "versions").glob("[0-9]*_*.py")
    return tuple(sorted(file.name.split("_")[0] for file in files))


def check_revision(current: str | None) -> None:
    """Raise NotMigrated or SchemaTooNew unless `current` is this version's head."""
    known = revisions()
    if current == known[-1]:
        return
    if current is not None and current not in known:
        raise SchemaTooNew(
            f"the database is at jobq revision {current!r}, which this version does not know "
            f"(its newest is {known[-1]!r}): upgrade the jobq package, or downgrade the database "
            "with the version that migrated it"
        )
    found = "has no jobq tables" if current is None else f"is at jobq revision {current!r}"
    raise NotMigrated(
        f"the database {found} and needs revision {known[-1]!r}: run `jobq upgrade` against it"
    )

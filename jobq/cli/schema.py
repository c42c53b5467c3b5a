"""`jobq upgrade`, `jobq downgrade`, `jobq check`."""

from __future__ import annotations

import click

from jobq import revisions
from jobq.cli import options
from jobq.database.open import open_database
from jobq.database.url import parse_url


@click.command()
@options.database_url
@options.schema
@click.argument("revision", default="head")
def upgrade(database_url: str | None, schema: str, revision: str) -> None:
    """Create or upgrade jobq's tables, to REVISION (default: head).

    Safe to run on every deploy, and from several places at once.
    """
    from jobq import schema as migrations  # Alembic alone takes a second, and a check needs none

    url = parse_url(database_url)
    migrations.upgrade(url, schema=schema, revision=revision)
    click.echo(f"{url!r} is at revision {migrations.current_revision(url, schema=schema)}")


@click.command()
@options.database_url
@options.schema
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask.")
def downgrade(database_url: str | None, schema: str, revision: str, yes: bool) -> None:
    """Take jobq's tables back to REVISION; "base" removes them and every job in them."""
    from jobq import schema as migrations

    url = parse_url(database_url)
    if not yes:
        click.confirm(f"Downgrade {url!r} to {revision}? Jobs may be lost", abort=True)
    migrations.downgrade(url, schema=schema, revision=revision)
    found = migrations.current_revision(url, schema=schema)
    click.echo(f"{url!r} is at revision {found or 'base (no jobq tables)'}")


@click.command()
@options.database_url
@options.schema
def check(database_url: str | None, schema: str) -> None:
    """Tell whether the database answers and is migrated to this version. Exit code 1 if not."""
    url = parse_url(database_url)
    open_database(url, schema=schema).check()
    click.echo(f"{url!r} is ready: revision {revisions.revisions()[-1]}")

"""`jobq roles`: what services connect as."""

from __future__ import annotations

import click

from jobq import roles as granted
from jobq.cli import options
from jobq.database.url import parse_url

prefix = click.option(
    "--prefix", metavar="NAME", help="What the roles' names begin with; default: the schema's name."
)


@click.group()
def roles() -> None:
    """Three PostgreSQL roles that may do no more than they need: to enqueue, to work, to read.

    They are groups: make the roles that your services connect as members of them.
    """


@roles.command()
@options.database_url
@options.schema
@prefix
def grant(database_url: str | None, schema: str, prefix: str | None) -> None:
    """Make the roles and grant each what it needs. Run it again after each upgrade."""
    url = parse_url(database_url)
    made = granted.grant_roles(url, schema=schema, prefix=prefix)
    click.echo(f"{url!r}: granted to {', '.join(made.names)}")


@roles.command()
@options.database_url
@options.schema
@prefix
def revoke(database_url: str | None, schema: str, prefix: str | None) -> None:
    """Take everything from the roles again and remove them."""
    url = parse_url(database_url)
    left = granted.revoke_roles(url, schema=schema, prefix=prefix)
    click.echo(f"{url!r}: revoked" + (f"; used elsewhere: {', '.join(left)}" if left else ""))


@roles.command()
@options.schema
@prefix
@click.option("--revoke", is_flag=True, help="What takes it all back.")
def sql(schema: str, prefix: str | None, revoke: bool) -> None:
    """Print the SQL that `grant` runs, for somebody else to run."""
    script = (granted.revoke_sql if revoke else granted.grant_sql)(schema, prefix)
    click.echo(f"BEGIN;\n{script}COMMIT;")

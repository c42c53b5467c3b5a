"""Options that several commands share."""

from __future__ import annotations

import click

database_url = click.option(
    "--database-url",
    envvar="JOBQ_DATABASE_URL",
    metavar="URL",
    help="postgresql://... or sqlite:///...  [env: JOBQ_DATABASE_URL]",
)
schema = click.option(
    "--schema",
    envvar="JOBQ_SCHEMA",
    default="jobq",
    show_default=True,
    metavar="NAME",
    help="The PostgreSQL schema of jobq's tables.  [env: JOBQ_SCHEMA]",
)

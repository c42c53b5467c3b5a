"""The `jobq` command. Subcommands are imported when they are called: SQLAlchemy alone takes half
a second, and `jobq --help` needs none of it."""

from jobq.cli.root import main

__all__ = ["main"]

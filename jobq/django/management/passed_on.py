"""Commands of `jobq`, for the project's own database."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.tasks import DEFAULT_TASK_BACKEND_ALIAS, task_backends

from jobq.cli import main
from jobq.client import SCHEMA_VARIABLE
from jobq.database.url import URL_VARIABLE
from jobq.django.backend import JobqBackend
from jobq.errors import JobqError


class PassedOn(BaseCommand):
    """Hands what it is given on to the `jobq` command, and tells that where the database is."""

    def jobq(self, alias: str, given: list[str]) -> list[str]:
        """Return the command line for `jobq`."""
        raise NotImplementedError

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--backend",
            default=DEFAULT_TASK_BACKEND_ALIAS,
            help="The alias in TASKS. Everything else is for jobq: see `jobq COMMAND --help`.",
        )

    def run_from_argv(self, argv: list[str]) -> None:
        """Options that are not Django's are jobq's."""
        parser = self.create_parser(argv[0], argv[1], allow_abbrev=False)
        known, given = parser.parse_known_args(argv[2:])
        try:
            self.execute(*given, **vars(known))
        except CommandError as error:
            self.stderr.write(f"{type(error).__name__}: {error}")
            sys.exit(error.returncode)

    def handle(self, *args: str, backend: str, **options: Any) -> None:
        found = task_backends[backend]
        if not isinstance(found, JobqBackend):
            raise CommandError(f"TASKS[{backend!r}] is a {type(found).__qualname__}, not jobq's")
        try:
            url = found.app.url
        except JobqError as error:
            raise CommandError(str(error)) from error
        os.environ[URL_VARIABLE] = url.render_as_string(hide_password=False)
        os.environ[SCHEMA_VARIABLE] = found.app.schema
        # Several worker processes are started with the command line that is found here.
        sys.argv = ["jobq", *self.jobq(backend, list(args))]
        main()

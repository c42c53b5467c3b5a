"""`manage.py jobq COMMAND`."""

from __future__ import annotations

from jobq.django.management.passed_on import PassedOn


class Command(PassedOn):
    help = "Any command of jobq, for the project's database: `manage.py jobq jobs list`."

    def jobq(self, alias: str, given: list[str]) -> list[str]:
        return given

"""`manage.py jobq_upgrade`."""

from __future__ import annotations

from jobq.django.management.passed_on import PassedOn


class Command(PassedOn):
    help = "Create or upgrade jobq's tables, as `manage.py migrate` does too."

    def jobq(self, alias: str, given: list[str]) -> list[str]:
        return ["upgrade", *given]

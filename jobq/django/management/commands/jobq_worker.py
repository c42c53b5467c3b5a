"""`manage.py jobq_worker`."""

from __future__ import annotations

from jobq.django.management.passed_on import PassedOn


class Command(PassedOn):
    help = "Run the jobs of a backend until stopped; the options are those of `jobq worker`."

    def jobq(self, alias: str, given: list[str]) -> list[str]:
        return ["worker", f"jobq.django.worker:{alias}", *given]

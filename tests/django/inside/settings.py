"""Two databases: the run's, on either backend, and a file that is another."""

from __future__ import annotations

import os

from examples.django_shop.settings import database
from jobq import Retry

SECRET_KEY = "for tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["jobq.django", "tests.django.inside.books"]

DATABASES = {
    "default": database(os.environ["JOBQ_TEST_DJANGO_URL"]),
    "other": database(os.environ["JOBQ_TEST_DJANGO_OTHER_URL"]),
}

SOON = Retry(base_s=0.01, cap_s=0.01)
BACKEND = "jobq.django.JobqBackend"
TASKS = {
    "default": {
        "BACKEND": BACKEND,
        "QUEUES": ["default", "billing"],
        "OPTIONS": {
            "MAX_ATTEMPTS": 2,
            "RETRY": SOON,
            "TASKS": {
                "tests.django.inside.books.tasks.charge_late": {"COMMITS_ITSELF": True},
                "tests.django.inside.books.tasks.charge_naively": {"COMMITS_ITSELF": True},
                "tests.django.inside.books.tasks.report": {"COMMITS_ITSELF": True},
                "tests.django.inside.books.tasks.once": {"MAX_ATTEMPTS": 1},
            },
        },
    },
    "elsewhere": {"BACKEND": BACKEND, "OPTIONS": {"DATABASE": "other"}},
}

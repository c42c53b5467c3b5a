"""A shop in one database: PostgreSQL or SQLite, as SHOP_DATABASE_URL says."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "for a demonstration only")
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
USE_TZ = True
ROOT_URLCONF = "examples.django_shop.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = ["jobq.django", "examples.django_shop.shop"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]


def database(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": parts.path.removeprefix("/"),
            # One that reads and then writes waits for its turn instead of failing.
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
        }
    options = dict(parse_qsl(parts.query))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.removeprefix("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or options.pop("host", ""),  # a socket's folder stands behind `?`
        "PORT": str(parts.port or ""),
        "OPTIONS": options,
    }


DATABASES = {"default": database(os.environ.get("SHOP_DATABASE_URL", "sqlite:///shop.db"))}

TASKS = {
    "default": {
        "BACKEND": "jobq.django.JobqBackend",
        "QUEUES": ["default", "billing"],
        "OPTIONS": {"TASKS": {"examples.django_shop.shop.tasks.charge": {"MAX_ATTEMPTS": 10}}},
    }
}

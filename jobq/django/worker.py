"""The apps of Django's backends for the `jobq` command: `jobq worker jobq.django.worker:default`.

`DJANGO_SETTINGS_MODULE` says which project; the attribute is an alias in its `TASKS`.
"""

from __future__ import annotations

import django
from django.apps import apps
from django.tasks import task_backends
from django.tasks.exceptions import InvalidTaskBackend

from jobq.django.backend import JobqBackend
from jobq.django.queue import DjangoQueue


def __getattr__(alias: str) -> DjangoQueue:
    if not apps.ready:
        django.setup()
    try:
        backend = task_backends[alias]
    except InvalidTaskBackend as error:
        raise AttributeError(str(error)) from error
    if not isinstance(backend, JobqBackend):
        raise AttributeError(f"TASKS[{alias!r}] is a {type(backend).__qualname__}, and not jobq's")
    backend.app.register_declared()
    return backend.app

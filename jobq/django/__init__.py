"""jobq as a backend of `django.tasks`, on Django's own connections.

    INSTALLED_APPS = [..., "jobq.django"]
    TASKS = {"default": {"BACKEND": "jobq.django.JobqBackend"}}

A task is enqueued in the current transaction of Django's connection, and runs inside a transaction
of Django's connection whose first statement is the job's commit record. See docs/integrations.md.
"""

from jobq.django.attempts import JobqContext
from jobq.django.backend import JobqBackend

__all__ = ["JobqBackend", "JobqContext"]

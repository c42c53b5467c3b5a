"""A ledger, whose rows are the effects of jobs."""

from __future__ import annotations

from django.db import models


class Entry(models.Model):
    note = models.CharField(max_length=100)


class Account(models.Model):
    name = models.CharField(max_length=100, unique=True)

    class Meta:
        app_label = "books"

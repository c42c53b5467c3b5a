"""The worker tests' site: an app on each backend."""

from __future__ import annotations

from tests.worker.conftest import postgres_site, site

__all__ = ["postgres_site", "site"]

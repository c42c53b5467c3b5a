"""The machine and the versions that a run's figures belong to."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

PACKAGES = ("jobq", "psycopg", "sqlalchemy", "msgspec")


def machine() -> dict[str, object]:
    """Return CPUs, memory in MB, the system, Python and the packages jobq stands on."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpus": os.cpu_count(),
        "memory_mb": pages * page_bytes // 2**20,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }

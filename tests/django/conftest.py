"""What is inside is collected by the runs that `test_django` starts, and not without Django."""

from __future__ import annotations

collect_ignore = ["inside"]

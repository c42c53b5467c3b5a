"""The kit for testing your own jobs. pytest is not needed.

    drain(app)                                   # run what is due, here and now
    assert_enqueued(app, charge, order_id=7)
    advance(app, 3600)                           # as if an hour had passed
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobq.testing.clock import (
        advance,
    )
    from jobq.testing.drained import (
        adrain,
        arun_one,
        drain,
        run_one,
    )
    from jobq.testing.jobs import (
        EnqueuedJob,
        assert_enqueued,
        assert_not_enqueued,
        enqueued,
    )

__all__ = [
    "EnqueuedJob",
    "adrain",
    "advance",
    "arun_one",
    "assert_enqueued",
    "assert_not_enqueued",
    "drain",
    "enqueued",
    "run_one",
]

# Imported when first used, as in jobq itself: pytest loads the plugin wherever jobq is installed.
_HOMES = {
    "EnqueuedJob": "jobq.testing.jobs",
    "adrain": "jobq.testing.drained",
    "advance": "jobq.testing.clock",
    "arun_one": "jobq.testing.drained",
    "assert_enqueued": "jobq.testing.jobs",
    "assert_not_enqueued": "jobq.testing.jobs",
    "drain": "jobq.testing.drained",
    "enqueued": "jobq.testing.jobs",
    "run_one": "jobq.testing.drained",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'jobq.testing' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value

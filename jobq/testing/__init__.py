"""The kit for testing your own jobs. pytest is not needed; its plugin is `jobq.testing.plugin`.

    drain(app)                                   # run what is due, here and now
    assert_enqueued(app, charge, order_id=7)
    advance(app, 3600)                           # as if an hour had passed
    interrupt(app, charge.request(order_id=7), Interruption.INSIDE_EFFECT)

See docs/testing.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobq.testing.clock import (
        advance,
    )
    from jobq.testing.cuts import (
        Interruption,
    )
    from jobq.testing.databases import (
        throwaway_database,
    )
    from jobq.testing.drained import (
        adrain,
        arun_one,
        drain,
        run_one,
    )
    from jobq.testing.interruption import (
        Interrupted,
        ainterrupt,
        interrupt,
    )
    from jobq.testing.jobs import (
        EnqueuedJob,
        assert_enqueued,
        assert_not_enqueued,
        enqueued,
    )
    from jobq.testing.stepwise import (
        WorkerKilled,
    )

__all__ = [
    "EnqueuedJob",
    "Interrupted",
    "Interruption",
    "WorkerKilled",
    "adrain",
    "advance",
    "ainterrupt",
    "arun_one",
    "assert_enqueued",
    "assert_not_enqueued",
    "drain",
    "enqueued",
    "interrupt",
    "run_one",
    "throwaway_database",
]

# Imported when first used, as in jobq itself: pytest loads the plugin wherever jobq is installed.
_HOMES = {
    "EnqueuedJob": "jobq.testing.jobs",
    "Interrupted": "jobq.testing.interruption",
    "Interruption": "jobq.testing.cuts",
    "WorkerKilled": "jobq.testing.stepwise",
    "adrain": "jobq.testing.drained",
    "advance": "jobq.testing.clock",
    "ainterrupt": "jobq.testing.interruption",
    "arun_one": "jobq.testing.drained",
    "assert_enqueued": "jobq.testing.jobs",
    "assert_not_enqueued": "jobq.testing.jobs",
    "drain": "jobq.testing.drained",
    "enqueued": "jobq.testing.jobs",
    "interrupt": "jobq.testing.interruption",
    "run_one": "jobq.testing.drained",
    "throwaway_database": "jobq.testing.databases",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'jobq.testing' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value

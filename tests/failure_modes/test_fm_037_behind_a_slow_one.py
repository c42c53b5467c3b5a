"""FM_037: jobs wait behind one that hangs, in the hands of a worker that has no hand free.

To claim job by job costs more than short jobs take, so a worker leases some ahead. Then a handler
hangs, or the jobs were long from the start: what was leased ahead waits behind it, with leases that
are kept alive, while another worker has nothing to do. A queue that shows what it has in line shows
nothing.

jobq leases ahead as much as its handlers finish in a tenth of a second, which of long jobs is
nothing, and gives back what none of them has come for in a second.
"""

from __future__ import annotations

import threading

from jobq import JobQueue
from jobq.failure_modes.fm_037_behind_a_slow_one import AHEAD, prevent, reproduce
from jobq.failure_modes.shop import Shop
from tests.worker.conftest import Site

BOUND_S = 30.0


def test_reproduces_jobs_that_wait_beside_an_idle_worker(shop: Shop) -> None:
    found = reproduce(shop)

    assert 0 < found.seen["left"] <= AHEAD
    assert found.is_harmed


def test_prevented_when_quick_handlers_begin_to_hang(shop: Shop) -> None:
    found = prevent(shop)

    assert found.seen["left"] == 0
    assert found.seen["attempts"] == 0, "given back, with no attempt spent"
    assert found.seen["claims"] == 2, "by A, and by B: what A gave back it did not take again"
    assert not found.is_harmed


def test_prevented_where_jobs_are_long_from_the_start(site: Site) -> None:
    app = JobQueue(site.url)
    is_running, may_end = threading.Event(), threading.Event()

    @app.task(name="take")
    def take(is_slow: bool) -> None:
        if is_slow:
            is_running.set()
            assert may_end.wait(3 * BOUND_S)

    hanging, *quick = app.enqueue_many([take.request(is_slow=n == 0) for n in range(3)])
    with app.worker(concurrency=1, poll_s=0.05):
        assert is_running.wait(BOUND_S)
        with app.worker(concurrency=1, poll_s=0.05):
            for job in quick:
                job.wait(BOUND_S)
        may_end.set()
        hanging.wait(BOUND_S)

    assert [app.status(job.id).attempts for job in (hanging, *quick)] == [1, 1, 1]
    app.close()

"""Real `jobq worker` processes: stopped, killed, killing themselves."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from sqlalchemy.exc import OperationalError

from jobq import AttemptEnd, State
from tests.worker.charges import charge, charge_in_session, gated, never_ends
from tests.worker.conftest import Site, wait_for


def started(folder: Path) -> list[Path]:
    return list(folder.glob("started-*"))


def test_three_processes_charge_each_job_once(site: Site) -> None:
    jobs = site.app.enqueue_many(
        [charge.request() for _ in range(100)] + [charge_in_session.request() for _ in range(50)]
    )
    for _ in range(3):
        site.start_worker("--concurrency", "4", "--lease", "5")

    site.wait_until_done(150)

    assert site.charged() == [job.id for job in jobs]
    # Where the machine is slow, a reconciler may be the one that finalizes. No attempt ended in any
    # other way.
    assert {row["outcome"] for row in site.rows("attempts")} <= {AttemptEnd.HEALED}


def test_sigterm_lets_the_handler_finish_and_gives_the_rest_back(site: Site) -> None:
    jobs = [gated.enqueue(str(site.folder)) for _ in range(3)]
    worker = site.start_worker("--concurrency", "1", "--prefetch", "2")
    wait_for(lambda: started(site.folder), "the first handler to start", site)
    wait_for(lambda: site.counts()[State.LEASED] == 3, "the prefetch", site)

    worker.send_signal(signal.SIGTERM)
    wait_for(lambda: site.counts()[State.READY] == 2, "the unstarted jobs to be given back", site)
    (site.folder / "go").touch()

    assert worker.wait(30) == 0
    statuses = sorted((job.status().state, job.status().attempts) for job in jobs)
    assert statuses == [(State.DONE, 1), (State.READY, 0), (State.READY, 0)]
    assert len(site.charged()) == 1
    assert site.rows("workers")[0]["stopped_at"] is not None


def test_a_handler_keeps_its_lease_while_the_worker_drains(site: Site) -> None:
    """The lease is one second; the heartbeats go on until the last handler has ended."""
    job = gated.enqueue(str(site.folder))
    worker = site.start_worker()
    wait_for(lambda: started(site.folder), "the handler to start", site)
    worker.send_signal(signal.SIGINT)

    (lease,) = site.rows("leases")

    def is_extended_twice() -> bool:
        (now,) = site.rows("leases")
        return bool((now["lease_expires_at"] - lease["lease_expires_at"]).total_seconds() > 1.0)

    wait_for(is_extended_twice, "the lease to be extended past its first end", site)
    (site.folder / "go").touch()

    assert worker.wait(30) == 0
    assert (job.status().state, job.status().attempts) == (State.DONE, 1)


def test_after_the_grace_period_handlers_are_interrupted(site: Site) -> None:
    job = gated.enqueue(str(site.folder))
    # The lease is long enough not to end before the worker has told of the interruption.
    worker = site.start_worker("--grace", "0.3", "--lease", "60")
    wait_for(lambda: started(site.folder), "the handler to start", site)

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(30) == 1, "its thread was abandoned"
    assert [attempt.end for attempt in site.app.attempts(job.id)] == [AttemptEnd.INTERRUPTED]
    (site.folder / "go").touch()
    site.start_worker()
    site.wait_until_done(1)
    assert site.charged() == [job.id]


def test_a_second_signal_stops_at_once(site: Site) -> None:
    never_ends.enqueue(str(site.folder))
    worker = site.start_worker("--grace", "600")
    wait_for(lambda: (site.folder / "never-ends").exists(), "the handler to start", site)

    worker.send_signal(signal.SIGTERM)
    wait_for(lambda: "the worker stops" in site.log(), "the first signal to be seen")
    worker.send_signal(signal.SIGTERM)

    assert worker.wait(30) == 1


def test_what_a_killed_worker_had_in_hand_is_done_by_another(site: Site) -> None:
    jobs = [gated.enqueue(str(site.folder)) for _ in range(4)]
    victim = site.start_worker("--concurrency", "2", "--prefetch", "2")
    wait_for(lambda: len(started(site.folder)) == 2, "two handlers to start", site)

    victim.kill()
    victim.wait()
    (site.folder / "go").touch()
    site.start_worker()
    site.wait_until_done(4)

    assert site.charged() == [job.id for job in jobs]
    assert {job.status().attempts for job in jobs} == {2}


def freeze(worker: subprocess.Popen[bytes], site: Site) -> None:
    """Stop the process while it does not hold SQLite's one lock: else nobody else could work."""
    while True:
        worker.send_signal(signal.SIGSTOP)
        try:
            site.sql("BEGIN IMMEDIATE" if site.engine.name == "sqlite" else "SELECT 1")
        except OperationalError:
            worker.send_signal(signal.SIGCONT)
        else:
            return


def test_a_frozen_worker_is_refused_when_it_wakes(site: Site) -> None:
    job = gated.enqueue(str(site.folder))
    frozen = site.start_worker()
    wait_for(lambda: started(site.folder), "the handler to start", site)
    freeze(frozen, site)
    other = site.start_worker()
    wait_for(lambda: len(started(site.folder)) == 2, "another to start the job", site)

    (site.folder / "go").touch()
    site.wait_until_done(1)
    frozen.send_signal(signal.SIGCONT)

    wait_for(lambda: site.rows("refusals"), "the refusal", site)
    assert site.charged() == [job.id]
    assert job.status().attempts == 2
    for worker in (frozen, other):
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0

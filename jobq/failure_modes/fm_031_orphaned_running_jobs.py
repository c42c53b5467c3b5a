"""FM_031: a worker is killed, and its jobs stay "running" for ever."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg

from jobq.database.execute import execute
from jobq.database.url import conninfo
from jobq.failure_modes import weakened
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import BOOM, LEASE_S, TASK, Shop
from jobq.failure_modes.transactions import wait_until
from jobq.protocol.states import AttemptEnd, State
from jobq.protocol.values import FailedAttempt, Lease, Recovered
from jobq.store.base import RetryDelay, Store
from jobq.store.step import Rows, Step

WORKER = "killed"
SESSION = "SELECT pid FROM pg_stat_activity WHERE pid = {pid}"


class NobodyLooks(Store):
    """A job is "running" until its worker says otherwise: nothing looks for those that cannot.

    Written where the state is a column, and nobody asked what sets it back.
    """

    def reconcile(self, limit: int, retry_delay: RetryDelay) -> Step[Recovered]:
        yield from ()
        return Recovered()


# -- the moments at which a worker is killed; each leaves the database as SIGKILL would


def while_claiming(shop: Shop, queue: str) -> None:
    """Nobody's yet: the row is back in `ready` with the transaction's end."""
    claim = shop.database.store.claim(
        worker=WORKER, queues=[queue], tasks=[TASK], limit=1, lease_s=LEASE_S
    )
    kill_inside(shop, claim)


def after_the_claim(shop: Shop, queue: str) -> None:
    """Leased, and the handler never started."""
    claimed(shop, queue)


def inside_the_effect(shop: Shop, queue: str) -> None:
    """Record and charge are written, COMMIT is not: the server rolls back."""
    effect = shop.effect(claimed(shop, queue), WORKER)
    effect.charge()
    effect.roll_back()


def after_the_commit(shop: Shop, queue: str) -> None:
    """COMMITTED: charged and recorded, and the lease still there."""
    effect = shop.effect(claimed(shop, queue), WORKER)
    effect.charge()
    effect.commit()


def while_reporting_a_failure(shop: Shop, queue: str) -> None:
    """Every statement of the report was sent, COMMIT was not."""
    failure = FailedAttempt(claimed(shop, queue), AttemptEnd.FAILED, BOOM, 0.0)
    kill_inside(shop, shop.database.store.fail([failure]))


MOMENTS: tuple[Callable[[Shop, str], None], ...] = (
    while_claiming,
    after_the_claim,
    inside_the_effect,
    after_the_commit,
    while_reporting_a_failure,
)


def claimed(shop: Shop, queue: str) -> Lease:
    (job,) = shop.claim(WORKER, queues=[queue])
    return job.lease


def kill_inside(shop: Shop, step: Step[Any], statements: int | None = None) -> bool:
    """Run the first statements of a step, all of them when None, and close the connection on its
    open transaction. Return whether the step had more."""
    partly = _cut_off(step, statements)
    if shop.is_sqlite:
        path = str(shop.database.url.database)
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            return execute(partly, file)
    with closing(psycopg.connect(conninfo(shop.database.url))) as connection:
        pid = connection.info.backend_pid
        had_more = execute(partly, connection)
    wait_until(lambda: shop.sql(SESSION.format(pid=pid)) == [], "the server to notice the death")
    return had_more


def _cut_off(step: Step[Any], statements: int | None) -> Step[bool]:
    rows: Rows | None = None
    sent = 0
    while sent != statements:
        try:
            statement = next(step) if rows is None else step.send(rows)
        except StopIteration:
            return False
        rows = yield statement
        sent += 1
    return True


def play(shop: Shop) -> Finding:
    """A worker is killed at each moment; its leases end; the next worker does what it can."""
    jobs: dict[str, int] = {}
    for kill in MOMENTS:
        jobs[kill.__name__] = shop.enqueue(queue=kill.__name__)
        kill(shop, kill.__name__)
    bring_on(shop, list(jobs))

    left = [moment for moment, job_id in jobs.items() if shop.state(job_id) is not State.DONE]
    return Finding(
        is_harmed=bool(left),
        detail=f"{len(left)} of {len(jobs)} jobs of a killed worker are running for ever"
        if left
        else f"all {len(jobs)} jobs of a killed worker were done by the next one, once",
        seen={"left": left, "charged_by": shop.ledger()},
    )


def bring_on(shop: Shop, queues: list[str]) -> None:
    """Every lease expires; the reconciler passes once; B does whatever can be claimed then."""
    leases = shop.sql("SELECT job_id, token FROM jobq.leases")
    shop.expire(*(Lease(job_id, token) for job_id, token in leases))
    shop.reconcile()
    shop.promote()
    for job in shop.claim("B", 100, queues=queues):
        effect = shop.effect(job.lease, "B")
        effect.charge()
        effect.commit()
        shop.finalize(job.lease)


def reproduce(shop: Shop) -> Finding:
    """On a queue in which only a job's own worker ends its lease."""
    shop.weaken(weakened.by(NobodyLooks))
    return play(shop)


FM = FailureMode(
    id="FM_031",
    title="jobs of a killed worker stay running",
    invariants=("I6",),
    reproduce=reproduce,
    prevent=play,
)

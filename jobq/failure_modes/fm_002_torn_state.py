"""FM_002: a crash between two writes of one step leaves half of it behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg

from jobq.database.execute import Executable, execute
from jobq.database.url import conninfo
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import BOOM, LEASE_S, TASK, Shop
from jobq.failure_modes.transactions import wait_until
from jobq.protocol.states import AttemptEnd
from jobq.protocol.values import FailedAttempt, JobRequest, Lease
from jobq.store.step import Statement, Step

T = TypeVar("T")

REQUEST = JobRequest(TASK, "{}", "default", 0, 5, None, 0.0)
TABLES = (
    "jobq.ready",
    "jobq.scheduled",
    "jobq.leases",
    "jobq.commit_records",
    "jobq.attempts",
    "jobq.jobs",
    "ledger",
)
GONE = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})"

# -- the steps that are crashed, each on a job that stands where the step finds it


def enqueue(shop: Shop) -> Step[Any]:
    return shop.database.store.enqueue([REQUEST])


def promote(shop: Shop) -> Step[Any]:
    due(shop)
    return shop.database.store.promote(1)


def claim(shop: Shop) -> Step[Any]:
    shop.enqueue()
    return shop.database.store.claim(
        worker="A", queues=["default"], tasks=[TASK], limit=1, lease_s=LEASE_S
    )


def apply_effect(shop: Shop) -> Step[Any]:
    lease = leased(shop)
    recorded = yield from shop.database.store.commit_record(lease)
    yield Statement(f"INSERT INTO ledger VALUES ({lease.job_id}, 'A')", {})
    yield from shop.database.store.confirm_record(recorded)


def finalize(shop: Shop) -> Step[Any]:
    lease = leased(shop)
    charge(shop, lease, "A")
    return shop.database.store.finalize([lease])


def fail(shop: Shop) -> Step[Any]:
    failure = FailedAttempt(leased(shop), AttemptEnd.FAILED, BOOM, 0.0)
    return shop.database.store.fail([failure])


def release(shop: Shop) -> Step[Any]:
    return shop.database.store.release([leased(shop)])


def reconcile(shop: Shop) -> Step[Any]:
    shop.expire(leased(shop))
    return shop.database.store.reconcile(10, lambda _: 0.0)


def cancel(shop: Shop) -> Step[Any]:
    return shop.database.store.cancel(shop.enqueue())


Scene = Callable[[Shop], Step[Any]]
STEPS: dict[str, Scene] = {
    "enqueue": enqueue,
    "promote": promote,
    "claim": claim,
    "effect": apply_effect,
    "finalize": finalize,
    "fail": fail,
    "release": release,
    "reconcile": reconcile,
    "cancel": cancel,
}

# -- the same, as it is written where every table has a statement of its own


def claim_table_by_table(shop: Shop) -> Step[Any]:
    job_id = shop.enqueue()
    yield _sql(shop, f"DELETE FROM jobq.ready WHERE job_id = {job_id}")
    yield _sql(
        shop,
        "INSERT INTO jobq.leases (shard, job_id, token, attempt, worker, due_at, acquired_at, "
        f"lease_expires_at) VALUES (0, {job_id}, 1, 1, 'A', now(), now(), now() + interval '1m')",
    )


def fail_table_by_table(shop: Shop) -> Step[Any]:
    lease = leased(shop)
    yield _sql(shop, f"DELETE FROM jobq.leases WHERE job_id = {lease.job_id}")
    yield _sql(
        shop,
        "INSERT INTO jobq.scheduled (shard, job_id, run_at, attempts, token) "
        f"VALUES (0, {lease.job_id}, now(), 1, {lease.token})",
    )


TABLE_BY_TABLE: dict[str, Scene] = {
    **STEPS,
    "claim": claim_table_by_table,
    "fail": fail_table_by_table,
}


# -- the crash


def play(shop: Shop, steps: dict[str, Scene] = STEPS, *, autocommit: bool = False) -> Finding:
    """Every step is crashed after each of its statements, and the queue goes on."""
    facts = {name: _crash_everywhere(shop, scene, autocommit) for name, scene in steps.items()}
    crashes = sum(len(cuts) for cuts in facts.values())
    torn = {
        name: sum(bool(cut["torn"] or cut["lost"]) for cut in cuts) for name, cuts in facts.items()
    }
    harms = [name for name, count in torn.items() if count]
    return Finding(
        is_harmed=bool(harms),
        detail=f"{sum(torn.values())} of {crashes} crashes left a job half written: "
        + ", ".join(harms)
        if harms
        else f"no job is half written or lost after {crashes} crashes between statements",
        seen=facts,
    )


def _crash_everywhere(shop: Shop, scene: Scene, autocommit: bool) -> list[dict[str, Any]]:
    cuts: list[dict[str, Any]] = []
    is_over = False
    while not is_over:
        _clear(shop)
        with _doomed_connection(shop, autocommit) as connection:
            is_over = execute(_first(scene(shop), len(cuts) + 1), connection)
        torn = sorted(violations(shop, is_every_commit_charged=True))
        cuts.append({"torn": torn, "lost": _lost_after_recovery(shop)})
    return cuts


def _first(step: Step[T], count: int) -> Step[bool]:
    """Run so many of the step's statements; return whether there are no more."""
    try:
        statement = next(step)
        for _ in range(count):
            statement = step.send((yield statement))
    except StopIteration:
        return True
    return False


@contextmanager
def _doomed_connection(shop: Shop, autocommit: bool) -> Iterator[Executable]:
    """A connection that nobody commits on, of a process that is then gone."""
    if shop.is_sqlite:
        file = sqlite3.connect(str(shop.database.url.database), isolation_level=None)
        if not autocommit:
            file.execute("BEGIN")
        yield file
        file.close()
        return
    connection = psycopg.connect(conninfo(shop.database.url), autocommit=autocommit)
    pid = connection.info.backend_pid
    yield connection
    connection.close()
    wait_until(lambda: bool(shop.sql(GONE.format(pid=pid))[0][0]), f"server process {pid} to end")


def _lost_after_recovery(shop: Shop) -> list[int]:
    """Recover and work for as long as there is anything to do; return the jobs without a fate."""
    past = "0" if shop.is_sqlite else "'2000-01-01'"
    # A job in two places cannot be moved from one to the other: the step fails, every time.
    with suppress(sqlite3.IntegrityError, psycopg.IntegrityError):
        for _ in range(3):
            shop.sql(f"UPDATE jobq.leases SET lease_expires_at = {past}")
            shop.reconcile()
            shop.promote()
            for claimed in shop.claim("B", 10):
                charge(shop, claimed.lease, "B")
    fateless = "SELECT id FROM jobq.jobs WHERE id NOT IN (SELECT job_id FROM jobq.commit_records)"
    return [job_id for (job_id,) in shop.sql(fateless)]


# -- how a scene is set


def leased(shop: Shop) -> Lease:
    shop.enqueue()
    return shop.claim_one("A")


def due(shop: Shop) -> None:
    past = "0" if shop.is_sqlite else "'2000-01-01'"
    job_id = shop.enqueue(delay_s=3600.0)
    shop.sql(f"UPDATE jobq.scheduled SET run_at = {past} WHERE job_id = {job_id}")


def charge(shop: Shop, lease: Lease, worker: str) -> None:
    effect = shop.effect(lease, worker)
    effect.charge()
    effect.commit()


def _clear(shop: Shop) -> None:
    for table in TABLES:
        shop.sql(f"DELETE FROM {table}")


def _sql(shop: Shop, sql: str) -> Statement:
    return Statement(sql.replace("jobq.", f"{shop.schema}."), {})


def reproduce(shop: Shop) -> Finding:
    """With a transaction for every statement, and on PostgreSQL a statement for every table."""
    return play(shop, STEPS if shop.is_sqlite else TABLE_BY_TABLE, autocommit=True)


FM = FailureMode(
    id="FM_002",
    title="torn state update",
    invariants=("I2", "I5", "I6"),
    reproduce=reproduce,
    prevent=play,
)

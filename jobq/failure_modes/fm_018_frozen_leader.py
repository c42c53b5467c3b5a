"""FM_018: the one that looks after the others stands still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg

from jobq.database.open import open_database
from jobq.database.url import conninfo, parse_url
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.fm_020_cap_overshoot_and_double_cron import NIGHTLY, be_due
from jobq.failure_modes.shop import Shop
from jobq.failure_modes.transactions import wait_until
from jobq.store import schedules

LEADERSHIP = 18
TRY_TO_LEAD = f"SELECT pg_try_advisory_lock({LEADERSHIP})"
PASSES = 20
PAUSE_S = 0.02
START_S = 60.0
"""For a process to start, on a machine that has much else to do."""
QUEUE = "looked-after"

LEASE_EXPIRED = "an expired lease"
JOB_DUE = "a job that has become due"
TICK_DUE = "a tick of a schedule"
OWED = {
    LEASE_EXPIRED: "SELECT 1 FROM jobq.leases WHERE lease_expires_at <= clock_timestamp()",
    JOB_DUE: "SELECT 1 FROM jobq.scheduled WHERE run_at <= clock_timestamp()",
    TICK_DUE: "SELECT 1 FROM jobq.schedules WHERE next_tick_at <= clock_timestamp()",
}


def owe(shop: Shop) -> None:
    """Something for each kind of maintenance to see to."""
    shop.enqueue(queue=QUEUE)
    (claimed,) = shop.claim("dead", queues=[QUEUE])
    shop.expire(claimed.lease)
    delayed = shop.enqueue(delay_s=3600.0)
    shop.sql(f"UPDATE jobq.scheduled SET run_at = '2000-01-01' WHERE job_id = {delayed}")
    shop.sql("DELETE FROM jobq.ticks")
    be_due(shop)


def left(shop: Shop) -> list[str]:
    """What nobody has seen to."""
    return [what for what, query in OWED.items() if shop.sql(query)]


def maintain(shop: Shop) -> None:
    """One pass of all that keeps a queue going beside its handlers."""
    shop.reconcile(retry_delay_s=3600.0)
    shop.promote()
    shop.database.run(schedules.make_due(shop.database.store))


def maintain_if_leader(shop: Shop) -> None:
    """The same, behind the lock that is to keep the others from doing it too."""
    with closing(psycopg.connect(conninfo(shop.database.url), autocommit=True)) as session:
        if session.execute(TRY_TO_LEAD).fetchone() == (True,):
            maintain(shop)


def look_after_for_ever() -> None:
    """The first worker, in a process of its own: it leads, if there is a leader, until killed."""
    url, schema, is_led = sys.argv[1:]
    shop = Shop(open_database(parse_url(url), schema=schema), url, schema)
    session = psycopg.connect(conninfo(shop.database.url), autocommit=True)
    if is_led == "True":
        assert session.execute(TRY_TO_LEAD).fetchone() == (True,)
    while True:
        maintain(shop)
        time.sleep(PAUSE_S)


@contextmanager
def first_worker(shop: Shop, *, is_led: bool) -> Iterator[subprocess.Popen[bytes]]:
    code = f"from {__name__} import look_after_for_ever; look_after_for_ever()"
    command = [sys.executable, "-c", code, shop.url, shop.schema, str(is_led)]
    process = subprocess.Popen(command)  # noqa: S603 - our own
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGSTOP; return when it stands still."""
    process.send_signal(signal.SIGSTOP)
    asked = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
    wait_until(
        lambda: os.waitid(os.P_PID, process.pid, asked) is not None, "the worker to stand still"
    )


def play(shop: Shop, *, is_led: bool) -> Finding:
    """The first worker looks after everything, and is stopped; the second one does what it may."""
    shop.database.run(schedules.declare(shop.database.store.portable, [NIGHTLY]))
    with first_worker(shop, is_led=is_led) as first:
        owe(shop)
        wait_until(lambda: not left(shop), "the first worker to see to everything", START_S)
        stop(first)
        owe(shop)
        for _ in range(PASSES):
            (maintain_if_leader if is_led else maintain)(shop)
        while_frozen = left(shop)
        first.send_signal(signal.SIGCONT)
        wait_until(lambda: not left(shop), "everything to be seen to, once it goes on")

    return Finding(
        is_harmed=bool(while_frozen),
        detail=f"nobody saw to {', '.join(while_frozen)}, in {PASSES} passes of the second worker"
        if while_frozen
        else "the second worker saw to everything while the first stood still",
        seen={"while_frozen": while_frozen},
    )


def reproduce(shop: Shop) -> Finding:
    """With maintenance for whoever holds an advisory lock."""
    return play(shop, is_led=True)


def prevent(shop: Shop) -> Finding:
    return play(shop, is_led=False)


FM = FailureMode(
    id="FM_018",
    title="frozen leader",
    invariants=("I6", "liveness"),
    reproduce=reproduce,
    prevent=prevent,
    not_on_sqlite="SQLite has no session locks that a process could lead by",
)

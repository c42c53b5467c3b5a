"""FM_025: on SQLite, a step that takes the one lock too late is refused, overtaken or torn."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from jobq.database.guarded import BEGIN
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import LEASE_S, TASK, Shop
from jobq.failure_modes.transactions import WAIT_S
from jobq.protocol.values import JobRequest
from jobq.store.sqlite import SqliteStore
from jobq.store.step import Statement, Step

PATIENT_S = 10.0
"""How long a party would wait for the lock; longer than anybody has it here."""
REQUEST = JobRequest(TASK, "{}", "default", 0, 5, None, 0.0)
STANDS = "stands between two statements"
# A process that begins to claim, for somebody to kill it.
DOOMED = f"""
import sqlite3, sys
from jobq.store.sqlite import SqliteStore
path, begin = sys.argv[1:]
file = sqlite3.connect(path, isolation_level=None)
claim = SqliteStore().claim(
    worker="killed", queues=["default"], tasks=[{TASK!r}], limit=1, lease_s={LEASE_S})
statement = next(claim)
if begin:
    file.execute(begin)
file.execute(statement.sql, dict(statement.params)).fetchall()
print({STANDS!r}, flush=True)
sys.stdin.read()
"""

TAKE_A_LOOK = "SELECT job_id FROM jobq_ready ORDER BY job_id LIMIT 1"
TAKE = "DELETE FROM jobq_ready WHERE job_id = :job_id"
LEASE = """
INSERT OR REPLACE INTO jobq_leases (shard, job_id, token, attempt, worker, due_at, acquired_at,
                                    lease_expires_at)
VALUES (0, :job_id, 1, 1, :worker, 0, 0, 0)
"""


def claim(worker: str) -> Step[Any]:
    return SqliteStore().claim(
        worker=worker, queues=["default"], tasks=[TASK], limit=1, lease_s=LEASE_S
    )


def claim_after_a_look(worker: str) -> Step[Any]:
    """Look for a job, and take it by its id."""
    rows = yield Statement(TAKE_A_LOOK, {})
    for (job_id,) in rows:
        yield Statement(TAKE, {"job_id": job_id})
        yield Statement(LEASE, {"job_id": job_id, "worker": worker})
    return rows


@dataclass(frozen=True, slots=True)
class Ways:
    """How transactions are begun, "" for not at all, and how a job is claimed."""

    reads_first: str = BEGIN
    claims: str = BEGIN
    claim: Any = claim


NAIVE = Ways("BEGIN", "", claim_after_a_look)
"""A transaction takes the lock when it first writes; without one, each statement is by itself. The
second is how Python's sqlite3 has SELECTs unless told otherwise."""


def slowly(file: sqlite3.Connection, begin: str, step: Step[Any]) -> Generator[None, None, Any]:
    """Run the step in a transaction, and stand still after each of its statements."""
    if begin:
        file.execute(begin)
    try:
        statement = next(step)
        while True:
            rows = file.execute(statement.sql, dict(statement.params)).fetchall()
            yield
            statement = step.send(rows)
    except StopIteration as end:
        if begin:
            file.execute("COMMIT")
        return end.value
    except sqlite3.OperationalError:
        if file.in_transaction:
            file.execute("ROLLBACK")
        raise


def play(shop: Shop, ways: Ways = Ways()) -> Finding:
    """Two parties at one file, and a process that is killed between two statements."""
    seen = {
        "told": _reads_and_then_writes(shop, ways),
        "holders": _two_claims(shop, ways),
        "places": _killed_while_claiming(shop, ways),
    }
    harms = [
        text
        for is_so, text in (
            (seen["told"] != "done", f"{seen['told']!r} at once, with {PATIENT_S:g} s to wait"),
            (seen["holders"] != ["A"], f"one job, claimed by {' and '.join(seen['holders'])}"),
            (seen["places"] != ["ready"], "a job that is nowhere since its worker was killed"),
        )
        if is_so
    ]
    return Finding(
        is_harmed=bool(harms),
        detail="; ".join(harms)
        or "who comes second waits for its turn, one worker has the job, and a claim that was "
        "killed has not been",
        seen=seen,
    )


def _reads_and_then_writes(shop: Shop, ways: Ways) -> str:
    """A promotes, which is to read and then to write; B enqueues in between. What is A told?"""
    _clear(shop)
    shop.enqueue(delay_s=3600.0)
    shop.sql("UPDATE jobq.scheduled SET run_at = 0")
    with _opened(shop, PATIENT_S) as a, _opened(shop, 0.0) as b:
        promoting = slowly(a, ways.reads_first, SqliteStore().promote(1))
        next(promoting)
        _to_the_end_if_it_may(slowly(b, BEGIN, SqliteStore().enqueue([REQUEST])))
        try:
            _to_the_end(promoting)
        except sqlite3.OperationalError as error:
            return str(error)
    return "done"


def _two_claims(shop: Shop, ways: Ways) -> list[str]:
    """A has begun to claim the one job when B comes; B tries again afterwards. Who has it?"""
    _clear(shop)
    shop.enqueue()
    with _opened(shop, PATIENT_S) as a, _opened(shop, 0.0) as b:
        of_a = slowly(a, ways.claims, ways.claim("A"))
        next(of_a)
        jobs_of_b = _to_the_end_if_it_may(slowly(b, ways.claims, ways.claim("B")))
        holders = ["A"] if _to_the_end(of_a) else []
        if jobs_of_b is None:
            jobs_of_b = _to_the_end(slowly(b, ways.claims, ways.claim("B")))
        return holders + (["B"] if jobs_of_b else [])


def _killed_while_claiming(shop: Shop, ways: Ways) -> list[str]:
    """SIGKILL after a claim's first statement. Return the places that the job is in."""
    _clear(shop)
    shop.enqueue()
    command = [sys.executable, "-c", DOOMED, str(shop.database.url.database), ways.claims]
    doomed = subprocess.Popen(  # noqa: S603 - our own
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert doomed.stdout is not None
        assert doomed.stdout.readline().strip() == STANDS, "the process did not come so far"
    finally:
        doomed.kill()
        doomed.communicate(timeout=WAIT_S)
    return [
        table
        for table in ("ready", "scheduled", "leases", "commit_records")
        if shop.sql(f"SELECT 1 FROM jobq.{table}")
    ]


def _to_the_end(slow: Generator[None, None, Any]) -> Any:
    while True:
        try:
            next(slow)
        except StopIteration as end:
            return end.value


def _to_the_end_if_it_may(slow: Generator[None, None, Any]) -> Any:
    """None when the file is busy, and nothing was done."""
    try:
        return _to_the_end(slow)
    except sqlite3.OperationalError:
        return None


@contextmanager
def _opened(shop: Shop, timeout_s: float) -> Iterator[sqlite3.Connection]:
    path = str(shop.database.url.database)
    with closing(sqlite3.connect(path, timeout=timeout_s, isolation_level=None)) as file:
        yield file


def _clear(shop: Shop) -> None:
    for table in ("ready", "scheduled", "leases", "jobs"):
        shop.sql(f"DELETE FROM jobq.{table}")


def reproduce(shop: Shop) -> Finding:
    """On transactions that take the lock when they first write, or that there are none of."""
    return play(shop, NAIVE)


FM = FailureMode(
    id="FM_025",
    title="SQLite: busy, overtaken or torn",
    invariants=("I5", "I6"),
    reproduce=reproduce,
    prevent=play,
    not_on_postgresql="it locks rows, and a transaction that meets a locked one waits for it",
)

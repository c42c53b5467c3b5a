"""Transactions that stay open for as long as a test wants: the gates of the PostgreSQL tests.

A step that must not wait is run by `run`, where waiting for a lock is an error. One that has to
wait is run by `start`, on a thread, and `wait_until_blocked` returns when it does: so the order
of events is known, and no test sleeps to bring it about.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from jobq.database.execute import execute
from jobq.database.url import conninfo
from jobq.failure_modes.shop import Shop
from jobq.store.step import Statement, Step

T = TypeVar("T")

WAIT_S = 30.0
"""No wait of a test lasts longer; reaching it is a failure that says what was waited for."""
MUST_NOT_WAIT = "2s"
_POLL_S = 0.01

BLOCKED = "SELECT cardinality(pg_blocking_pids({pid})) > 0"
BLOCKED_BY = "SELECT pid FROM pg_stat_activity WHERE {pid} = ANY (pg_blocking_pids(pid))"


class OpenTransaction:
    """One party's connection, and the transaction it holds open until `commit` or `rollback`."""

    def __init__(self, url: str) -> None:
        given = str(conninfo_to_dict(url).get("options") or "")  # a search_path, say
        self._connection: psycopg.Connection[Any] = psycopg.connect(
            url, options=f"{given} -c lock_timeout={MUST_NOT_WAIT} -c statement_timeout={WAIT_S:g}s"
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="open-transaction")
        self.pid = self._connection.info.backend_pid

    def run(self, step: Step[T]) -> T:
        """Run the step and leave the transaction open. To wait for a lock is LockNotAvailable."""
        return execute(step, self._connection)

    def start(self, step: Step[T]) -> Future[T]:
        """Run the step on a thread, where it may wait for locks; the transaction stays open."""

        def waiting() -> T:
            self._connection.execute("SET LOCAL lock_timeout = 0")
            return execute(step, self._connection)

        return self._thread.submit(waiting)

    def sql(self, statement: str) -> None:
        self._connection.execute(statement.encode())

    def commit(self) -> None:
        self._connection.commit()

    def rollback(self) -> None:
        self._connection.rollback()

    def close(self) -> None:
        """Roll back, whatever the thread is waiting for."""
        self._connection.cancel_safe(timeout=WAIT_S)
        self._thread.shutdown()
        self._connection.close()


class Parties:
    """Makes open transactions on a shop's database, and watches them wait."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._opened: list[OpenTransaction] = []

    def open(self) -> OpenTransaction:
        transaction = OpenTransaction(conninfo(self._shop.database.url))
        self._opened.append(transaction)
        return transaction

    def wait_until_blocked(self, pid: int) -> None:
        """Return when the server process `pid` waits for a lock that another one holds."""
        wait_until(
            lambda: bool(self._shop.sql(BLOCKED.format(pid=pid))[0][0]),
            f"server process {pid} to wait for a lock",
        )

    def wait_until_blocked_or_done(self, pid: int, started: Future[Any]) -> bool:
        """Return whether what was started waits for somebody else's lock, once it does or ends."""
        is_blocked = False

        def look() -> bool:
            nonlocal is_blocked
            is_done = started.done()  # asked first: what is done is not blocked
            is_blocked = not is_done and bool(self._shop.sql(BLOCKED.format(pid=pid))[0][0])
            return is_done or is_blocked

        wait_until(look, f"server process {pid} to be done, or to wait for a lock")
        return is_blocked

    def wait_for_blocked_by(self, pid: int) -> list[int]:
        """Return the server processes that wait for a lock of `pid`, when there are any."""
        blocked: list[int] = []

        def look() -> bool:
            blocked[:] = [pid for (pid,) in self._shop.sql(BLOCKED_BY.format(pid=pid))]
            return bool(blocked)

        wait_until(look, f"somebody to wait for a lock of server process {pid}")
        return blocked

    def close(self) -> None:
        for transaction in self._opened:
            transaction.close()


def interrupted(
    step: Step[T], is_it: Callable[[Statement], bool], meanwhile: Callable[[], object]
) -> Step[T]:
    """The step, with `meanwhile` taking place once, just before the first statement that is it."""
    is_over = False
    statement = next(step)
    while True:
        if not is_over and is_it(statement):
            is_over = True
            meanwhile()
        rows = yield statement
        try:
            statement = step.send(rows)
        except StopIteration as end:
            assert is_over, "the step had no such statement, and nothing took place meanwhile"
            result: T = end.value
            return result


@contextmanager
def parties_of(shop: Shop) -> Iterator[Parties]:
    parties = Parties(shop)
    try:
        yield parties
    finally:
        parties.close()


def wait_until(is_so: Callable[[], bool], what: str, bound_s: float = WAIT_S) -> None:
    """Ask until the answer is yes. Fails after `bound_s`, saying what was waited for."""
    deadline_s = time.monotonic() + bound_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"waited {bound_s:g} s for {what}"
        time.sleep(_POLL_S)

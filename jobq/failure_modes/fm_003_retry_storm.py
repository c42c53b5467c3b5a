"""FM_003: a slow database is retried until it is down."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import TypeVar

import psycopg

from jobq.database.url import conninfo
from jobq.failure_modes.catalogue import FailureMode, Finding, Needs
from jobq.failure_modes.fm_016_database_restart import MAKE_ROLE, ROLE
from jobq.failure_modes.naive import naive_store
from jobq.failure_modes.shop import BOOM, TASK, Shop
from jobq.failure_modes.transactions import WAIT_S, OpenTransaction, Parties, parties_of
from jobq.protocol.budget import RetryBudget
from jobq.protocol.retry import Retry
from jobq.protocol.states import AttemptEnd
from jobq.protocol.values import ClaimedJob, FailedAttempt, LeasedAttempt
from jobq.store import Store
from jobq.store.step import Statement, Step

T = TypeVar("T")

JOBS = 40
MAX_ATTEMPTS = 5
SLOTS = 90
"""Connections that the server has for the workers."""
# Time is what the rows say: a tick moves every lease and every due time one second into the past.
# So nothing waits for a clock, and an outage is as long as it is counted. A second of the storm is
# long in the rows, so that the real ones which pass meanwhile do not count.
SECOND_S = 10_000.0
OUTAGE_TICKS = 12
PATIENCE_TICKS = 6
"""After so long an attempt that hangs is given up, as by a statement_timeout."""
LEASE_S = 2 * SECOND_S
LAST_TICK = 400

TICK = (
    f"UPDATE jobq.leases SET lease_expires_at = lease_expires_at - interval '{SECOND_S} s'",
    f"UPDATE jobq.scheduled SET run_at = run_at - interval '{SECOND_S} s'",
)
ACCOUNT = "CREATE TABLE account (job_id bigint)"
SLOW = "LOCK TABLE account IN ACCESS EXCLUSIVE MODE"
DEAD = "SELECT count(*) FROM jobq.commit_records WHERE outcome = 'dead'"
LEFT = "SELECT count(*) FROM jobq.jobs WHERE id NOT IN (SELECT job_id FROM jobq.commit_records)"


@dataclass
class Figures:
    """What the storm did, counted."""

    attempts: int = 0
    statements: int = 0
    most_connections: int = 0
    refused_connections: int = 0
    statements_in_outage: int = 0
    attempts_in_outage: int = 0
    ticks_to_recover: int = 0
    """From the end of the outage until every job had its fate."""


@dataclass
class InFlight:
    """An attempt that hangs in its effect, on a connection of its own."""

    claimed: ClaimedJob
    connection: OpenTransaction
    started: Future[None]
    since: int


class Policy(ABC):
    """What the workers do about it."""

    rescue_limit: int
    concurrency: float
    """Attempts at once."""

    @abstractmethod
    def delay_s(self, attempt: int) -> float: ...

    @abstractmethod
    def succeeded(self, attempt: int) -> None: ...

    @abstractmethod
    def beat(self, store: Store, in_flight: list[InFlight]) -> Step[None]: ...


class Eager(Policy):
    """As many at once as there are, tried again at once, and leases that the slow take along."""

    rescue_limit = 1_000_000
    concurrency = math.inf

    def delay_s(self, attempt: int) -> float:
        return 0.0

    def succeeded(self, attempt: int) -> None:
        """Nothing is learnt from it."""

    def beat(self, store: Store, in_flight: list[InFlight]) -> Step[None]:
        yield from ()  # it waits behind the work


class Remedied(Policy):
    """jobq's worker: admission, heartbeats, backoff with full jitter, and a budget for retries."""

    rescue_limit = 100
    concurrency: float = 8

    def __init__(self) -> None:
        self._budget = RetryBudget(Retry())
        self._random = random.Random(3)  # noqa: S311 - the same storm every time

    def delay_s(self, attempt: int) -> float:
        return self._budget.delay_s(attempt, self._random.random()) * SECOND_S

    def succeeded(self, attempt: int) -> None:
        self._budget.succeeded(attempt)

    def beat(self, store: Store, in_flight: list[InFlight]) -> Step[None]:
        yield from store.heartbeat("A", [one.claimed.lease for one in in_flight], LEASE_S)


class Storm:
    """Workers, tick by tick, on a database whose one hot table hangs."""

    def __init__(self, shop: Shop, policy: Policy, parties: Parties) -> None:
        self.figures = Figures()
        self._shop = shop
        self._policy = policy
        self._parties = parties
        self._in_flight: list[InFlight] = []
        self._tick = 0
        shop.sql(MAKE_ROLE)
        shop.sql(f"ALTER ROLE {ROLE} CONNECTION LIMIT {SLOTS}")
        self._conninfo = conninfo(shop.database.url.set(username=ROLE))

    def run(self) -> Figures:
        figures = self.figures
        blocker = self._parties.open()
        blocker.sql(SLOW)
        while self._tick < OUTAGE_TICKS:
            self._give_up_the_oldest()
            self._work(self._hang)
        figures.attempts_in_outage = figures.attempts
        figures.statements_in_outage = figures.statements
        blocker.commit()
        while self._in_flight or (self._shop.sql(LEFT)[0][0] and self._tick < LAST_TICK):
            for one in self._in_flight:
                self._end(one)
            self._in_flight.clear()
            self._work(lambda one: one.started.result(WAIT_S))
        figures.ticks_to_recover = self._tick - OUTAGE_TICKS
        return figures

    def _work(self, begun: Callable[[InFlight], object]) -> None:
        """What a worker's loop does, once; then time goes on."""
        store = self._shop.database.store
        self._run(self._policy.beat(store, self._in_flight))
        self._run(store.reconcile(self._policy.rescue_limit, self._retry_delay_s))
        self._run(store.promote(JOBS))
        free = min(JOBS, self._policy.concurrency - len(self._in_flight))
        if free > 0:
            for claimed in self._run(_claim(store, int(free))):
                self._begin(claimed, begun)
        self._tick += 1
        for statement in TICK:
            self._shop.sql(statement)

    def _begin(self, claimed: ClaimedJob, begun: Callable[[InFlight], object]) -> None:
        self.figures.attempts += 1
        try:
            connection = OpenTransaction(self._conninfo)
        except psycopg.OperationalError:  # 53300: too many connections
            self.figures.refused_connections += 1
            return
        started = connection.start(self._counted(_effect(self._shop.database.store, claimed)))
        one = InFlight(claimed, connection, started, self._tick)
        self._in_flight.append(one)
        self.figures.most_connections = max(self.figures.most_connections, len(self._in_flight))
        begun(one)

    def _hang(self, one: InFlight) -> None:
        self._parties.wait_until_blocked(one.connection.pid)

    def _end(self, one: InFlight) -> None:
        one.started.result(WAIT_S)
        one.connection.commit()
        one.connection.close()
        self._run(self._shop.database.store.finalize([one.claimed.lease]))
        self._policy.succeeded(one.claimed.attempt)

    def _give_up_the_oldest(self) -> None:
        for one in [one for one in self._in_flight if self._tick - one.since >= PATIENCE_TICKS]:
            self._in_flight.remove(one)
            one.connection.close()
            delay_s = self._policy.delay_s(one.claimed.attempt)
            failure = FailedAttempt(one.claimed.lease, AttemptEnd.FAILED, BOOM, delay_s)
            self._run(self._shop.database.store.fail([failure]))

    def _retry_delay_s(self, attempt: LeasedAttempt) -> float:
        return self._policy.delay_s(attempt.attempt)

    def _run(self, step: Step[T]) -> T:
        return self._shop.database.run(self._counted(step))

    def _counted(self, step: Step[T]) -> Step[T]:
        try:
            statement = next(step)
            while True:
                self.figures.statements += 1
                statement = step.send((yield statement))
        except StopIteration as end:
            result: T = end.value
            return result


def _claim(store: Store, limit: int) -> Step[list[ClaimedJob]]:
    return store.claim(worker="A", queues=["default"], tasks=[TASK], limit=limit, lease_s=LEASE_S)


def _effect(store: Store, claimed: ClaimedJob) -> Step[None]:
    yield from store.commit_record(claimed.lease)
    yield Statement(f"INSERT INTO account VALUES ({claimed.lease.job_id})", {})
    yield Statement(f"INSERT INTO ledger VALUES ({claimed.lease.job_id}, 'A')", {})


def play(shop: Shop, policy: Policy | None = None) -> Finding:
    """Forty jobs, and a table that hangs for twelve seconds."""
    shop.sql(ACCOUNT)
    for _ in range(JOBS):
        shop.enqueue(max_attempts=MAX_ATTEMPTS)
    with parties_of(shop) as parties:
        figures = Storm(shop, policy or Remedied(), parties).run()
    dead = shop.sql(DEAD)[0][0]
    twice = len(shop.ledger()) - len(shop.sql("SELECT DISTINCT job_id FROM ledger"))
    return Finding(
        is_harmed=bool(dead or twice or figures.refused_connections),
        detail=f"{figures.attempts / JOBS:.1f} attempts and "
        f"{figures.statements / JOBS:.0f} statements for each of {JOBS} jobs, "
        f"{figures.most_connections} connections at once and {figures.refused_connections} "
        f"refused, {twice} charged again, {dead} dead; all at their end "
        f"{figures.ticks_to_recover} s after the outage",
        seen={**asdict(figures), "dead": dead, "twice": twice},
    )


def reproduce(shop: Shop) -> Finding:
    """On workers without limits that retry at once, and without a commit record."""
    shop.weaken(naive_store)
    return play(shop, Eager())


FM = FailureMode(
    id="FM_003",
    title="retry storm",
    invariants=("I2", "I6", "liveness"),
    reproduce=reproduce,
    prevent=play,
    needs=Needs.SERVER,
    not_on_sqlite="it has no server whose connections could run out, and one writer at a time",
)

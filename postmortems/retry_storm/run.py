"""The incident, once on each queue: a migration waits behind a report, and every charge behind it.

Orders keep coming from a shop that knows nothing of the queue, but shares its database.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.errors import LockNotAvailable

from jobq import JobQueue
from postmortems import alerts
from postmortems.retry_storm.app import PATIENCE_VARIABLE, charge
from postmortems.retry_storm.eager import CONCURRENCY_VARIABLE, LEASE_VARIABLE, End
from postmortems.sampling import Every, Series, measured
from postmortems.scene import ROLE, WAIT_S, Process, Scene, SceneFailed, jobq_worker, scene_in
from postmortems.shop import NOT_CHARGED, ORDER, RECONCILIATION, make_orders

JOBQ_APP = "postmortems.retry_storm.app:app"
LOOK_S = 0.05
RESERVED = 3
"""Connections that PostgreSQL keeps for superusers (`superuser_reserved_connections`)."""


@dataclass(frozen=True, slots=True)
class Settings:
    max_connections: int = 60
    workers: int = 3
    eager_concurrency: int = 30
    jobq_concurrency: int = 8
    lease_s: float = 2.0
    patience_s: float = 5.0
    max_attempts: int = 25
    orders_per_s: float = 10.0
    report_at_s: float = 4.0
    migration_at_s: float = 5.0
    report_for_s: float = 13.0
    orders_until_s: float = 24.0
    reconcile_every_s: float = 5.0
    customers: int = 300
    seed: int = 1


SMALL = Settings(
    max_connections=24,
    workers=2,
    lease_s=1.0,
    patience_s=2.0,
    max_attempts=8,
    eager_concurrency=20,
    jobq_concurrency=5,
    orders_per_s=5.0,
    report_at_s=0.5,
    migration_at_s=0.6,
    report_for_s=5.0,
    orders_until_s=6.0,
    reconcile_every_s=0.5,
)

# A claim is an attempt, whoever makes it and whatever becomes of it: counted where leases are made.
COUNT_ATTEMPTS = """
CREATE SEQUENCE attempts_begun;
CREATE FUNCTION count_attempt() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM nextval('attempts_begun'); RETURN NULL; END $$;
CREATE TRIGGER count_attempt AFTER INSERT ON jobq.leases
    FOR EACH ROW EXECUTE FUNCTION count_attempt();
"""
ATTEMPTS = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM attempts_begun"
CONNECTIONS = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}'"
WAITING = f"{CONNECTIONS} AND wait_event_type = 'Lock'"
OPEN = """
SELECT (SELECT count(*) FROM jobq.ready) + (SELECT count(*) FROM jobq.scheduled)
     + (SELECT count(*) FROM jobq.leases)
"""
TWICE = f"SELECT count(*) FROM ({RECONCILIATION}) AS twice"
DONE = "SELECT count(*) FROM jobq.commit_records WHERE outcome = 'committed'"
DEAD = "SELECT count(*) FROM jobq.commit_records WHERE outcome = 'dead'"
DEAD_AND_CHARGED = """
SELECT count(*) FROM jobq.commit_records JOIN jobq.jobs ON jobs.id = job_id
WHERE outcome = 'dead'
  AND EXISTS (SELECT FROM charges WHERE order_id = (jobs.args::json ->> 'order_id')::bigint)
"""
SHORTEST_LIFE = """
SELECT extract(epoch FROM min(recorded_at - created_at))::float8
FROM jobq.commit_records JOIN jobq.jobs ON jobs.id = job_id WHERE outcome = 'dead'
"""
EXPIRED = "SELECT count(*) FROM jobq.attempts WHERE outcome = 'expired'"
ZOMBIES = "SELECT count(*) FROM (SELECT DISTINCT job_id, token FROM jobq.refusals) AS zombies"
IS_BLOCKED = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
# Numbers of charges do not change while the table hangs, and cannot be read either.
PATIENCE_OF_THE_WATCH = "SET lock_timeout = '100ms'"
# 53300, as libpq words it: of all connections, and of those that are left to superusers.
TOO_MANY = ("too many clients", "remaining connection slots", "too many connections")


def play(settings: Settings, *, is_naive: bool) -> dict[str, Any]:
    """Run the incident on one of the queues; return what it did. Raises SceneFailed."""
    with (
        tempfile.TemporaryDirectory(prefix="postmortem-") as folder,
        scene_in(Path(folder), max_connections=str(settings.max_connections)) as scene,
    ):
        return Incident(settings, scene, is_naive=is_naive).run()


class Incident:
    def __init__(self, settings: Settings, scene: Scene, *, is_naive: bool) -> None:
        self._settings = settings
        self._scene = scene
        self._is_naive = is_naive
        orders = math.ceil((settings.orders_until_s + 2 * WAIT_S) * settings.orders_per_s)
        self._orders = iter(make_orders(orders, settings.customers, settings.seed))
        self._queue = JobQueue(scene.url)
        self._charge = charge.using(max_attempts=settings.max_attempts)
        self._placed = 0
        self._turned_away: list[float] = []
        self._found: list[tuple[Any, ...]] = []
        self._reconciled_s = self._outage_began_s = self._outage_ended_s = 0.0
        self._attempts_in_outage = 0

    def run(self) -> dict[str, Any]:
        scene, settings = self._scene, self._settings
        with scene.connect() as owner:
            owner.execute(COUNT_ATTEMPTS.encode())
        scene.watch.execute(PATIENCE_OF_THE_WATCH.encode())
        workers = [self._start(f"worker {n}") for n in range(1, settings.workers + 1)]
        scene.wait_for(
            lambda: scene.ask("SELECT count(*) FROM jobq.workers") == len(workers),
            "the workers to be there",
        )
        questions = {
            "attempts": lambda: scene.ask(ATTEMPTS),
            "connections": lambda: scene.ask(CONNECTIONS),
            "waiting": lambda: scene.ask(WAITING),
            "open_jobs": lambda: scene.ask(OPEN),
            "dead": lambda: scene.ask(DEAD),
            "twice": self._last_known(TWICE),
            "turned_away": lambda: len(self._turned_away),
        }
        scene.begin()
        with (
            measured(scene, questions) as (sampler, scraper),
            Every(settings.reconcile_every_s, self._reconcile, "finance").running(),
        ):
            self._tell(
                "begun", f"{len(workers)} workers; {settings.orders_per_s:g} orders a second"
            )
            with Every(1 / settings.orders_per_s, self._place_an_order, "shop").running():
                scene.wait_until(settings.report_at_s)
                self._outage()
                scene.wait_until(settings.orders_until_s)
            self._tell("shop_closed", f"no more orders; {self._placed} were taken")
            scene.wait_for(lambda: scene.ask(OPEN) == 0, "every job to be at its end")
            self._tell("drained", f"the last job is at its end; {scene.ask(DEAD)} are dead")
            self._wait_for_finance()
            seconds = math.ceil(scene.chronicle.now_s())
        metrics = scraper.series(alerts.metric_names())
        self._queue.close()
        refused = sorted(self._refusals_in_logs())
        return {
            "events": [asdict(event) for event in scene.chronicle.events],
            "figures": self._figures(sampler.series, refused),
            "samples": {
                **sampler.series,
                "refused": [
                    sum(at_s <= seen_s for at_s in refused) for seen_s in sampler.series["at_s"]
                ],
            },
            "metrics": metrics,
            "seconds": seconds,
            "alerts": alerts.first_fired(metrics, seconds),
        }

    def _tell(self, key: str, text: str) -> float:
        return self._scene.chronicle.tell(key, text)

    def _start(self, name: str) -> Process:
        settings = self._settings
        environment = {
            PATIENCE_VARIABLE: str(settings.patience_s),
            CONCURRENCY_VARIABLE: str(settings.eager_concurrency),
            LEASE_VARIABLE: str(settings.lease_s),
        }
        command = (
            ["postmortems.retry_storm.eager"]
            if self._is_naive
            else jobq_worker(
                JOBQ_APP, concurrency=settings.jobq_concurrency, lease_s=settings.lease_s
            )
        )
        return self._scene.start(name, command, **environment)

    def _last_known(self, query: str) -> Callable[[], float]:
        """Of what is asked of the table that hangs."""
        known = 0.0

        def ask() -> float:
            nonlocal known
            with suppress(LockNotAvailable):
                known = self._scene.ask(query)
            return known

        return ask

    # -- what happens

    def _place_an_order(self) -> None:
        """The shop's request: a connection, the order, and a job in the same transaction."""
        order = next(self._orders)
        try:
            with self._scene.connect() as session:
                session.execute(ORDER.encode(), (order.id, order.customer_id, order.cents))
                charge_it = self._charge.request(order_id=order.id, cents=order.cents)
                self._queue.enqueue_many_in(session, [charge_it])
        except psycopg.OperationalError as error:
            self._turned_away.append(self._scene.chronicle.now_s())
            if len(self._turned_away) == 1:
                self._tell("shop_refused", f"the shop turns its first order away: {_last(error)}")
        else:
            self._placed += 1

    def _outage(self) -> None:
        """An ALTER TABLE waits for a report that has read the table, and all others wait for it."""
        scene, settings = self._scene, self._settings
        with scene.connect() as analyst, scene.connect() as migrating, ThreadPoolExecutor(1) as run:
            analyst.execute("SELECT sum(cents) FROM charges")
            self._tell("report", "a report reads charges, in a transaction that stays open")
            scene.wait_until(settings.migration_at_s)
            attempts = scene.ask(ATTEMPTS)
            self._outage_began_s = self._tell(
                "migration", "a migration adds a column to charges, and waits for the report"
            )
            altered = run.submit(migrating.execute, b"ALTER TABLE charges ADD COLUMN note text")
            try:
                pid = migrating.info.backend_pid
                scene.wait_for(lambda: bool(scene.ask(IS_BLOCKED, pid)), "the migration to wait")
                self._watch_the_outage(settings.report_at_s + settings.report_for_s)
                self._attempts_in_outage = scene.ask(ATTEMPTS) - attempts
            finally:
                analyst.commit()
                altered.result(WAIT_S)
                migrating.commit()
            self._outage_ended_s = self._tell(
                "report_over", "the report is over, and the migration with it"
            )

    def _watch_the_outage(self, until_s: float) -> None:
        scene = self._scene
        room = room_of(self._settings)
        landmarks: dict[str, tuple[Callable[[], bool], str]] = {
            "expired": (
                lambda: scene.ask(EXPIRED) > 0,
                "the first leases expire, and their jobs are tried again while the first attempts "
                "still wait",
            ),
            "full": (
                lambda: scene.ask(CONNECTIONS) >= room or bool(self._turned_away),
                f"all {room} connections are taken",
            ),
            "first_dead": (
                lambda: scene.ask(DEAD) > 0,
                f"the first job is dead: its {self._settings.max_attempts} attempts are spent",
            ),
        }
        # On a machine that has other work too, the first queue is given the time that it needs.
        while scene.chronicle.now_s() < until_s or (self._is_naive and landmarks):
            for key, (has_come, text) in list(landmarks.items()):
                if has_come():
                    del landmarks[key]
                    self._tell(key, text)
            if scene.chronicle.now_s() > until_s + WAIT_S:
                raise SceneFailed(f"waited {WAIT_S:g} s for the storm: no {', '.join(landmarks)}")
            scene.wait_until(scene.chronicle.now_s() + LOOK_S)

    # -- what is seen of it

    def _reconcile(self) -> None:
        """Finance compares orders with charges; while it cannot, it has nothing new."""
        began_s = self._scene.chronicle.now_s()
        try:
            with self._scene.connect() as session:
                session.execute(PATIENCE_OF_THE_WATCH.encode())
                found = session.execute(RECONCILIATION.encode()).fetchall()
        except psycopg.OperationalError:
            return
        if len(found) > len(self._found):
            self._tell(
                f"found_{len(found)}",
                f"reconciliation finds {len(found)} orders charged "
                f"more than once, {sum(row[3] for row in found) / 100:,.2f} too much",
            )
        self._found = found
        self._reconciled_s = began_s

    def _wait_for_finance(self) -> None:
        """For a reconciliation that began after the last charge was made."""
        last_s = self._scene.chronicle.now_s()
        self._scene.wait_for(lambda: self._reconciled_s > last_s, "finance")
        if not self._found:
            self._tell("reconciled", "reconciliation finds nothing")

    def _refusals_in_logs(self) -> Iterator[float]:
        """When workers were refused a connection."""
        for process in self._scene.processes:
            for line in process.log():
                if line.get("end") == End.REFUSED:
                    yield self._scene.at_s(line["at"])
                elif any(words in line.get("message", "") for words in TOO_MANY):
                    yield self._scene.at_s(datetime.fromisoformat(line["timestamp"]).timestamp())

    def _figures(self, samples: Series, refused: list[float]) -> dict[str, Any]:
        scene = self._scene
        attempts = scene.ask(ATTEMPTS)
        return {
            "orders_taken": self._placed,
            "orders_turned_away": len(self._turned_away),
            "charges": scene.ask("SELECT count(*) FROM charges"),
            "not_charged": scene.ask(NOT_CHARGED),
            "charged_twice": len(self._found),
            "most_charges_of_an_order": max((row[2] for row in self._found), default=1),
            "overcharged_cents": int(sum(row[3] for row in self._found)),
            "customers_overcharged": len({row[1] for row in self._found}),
            "jobs_done": scene.ask(DONE),
            "jobs_dead": scene.ask(DEAD),
            "dead_and_charged": scene.ask(DEAD_AND_CHARGED),
            "shortest_life_s": scene.ask(SHORTEST_LIFE),
            "attempts": attempts,
            "attempts_in_outage": self._attempts_in_outage,
            "attempts_per_job": round(attempts / self._placed, 1),
            "most_attempts_per_s": max(per_second(samples["at_s"], samples["attempts"])),
            "room": room_of(self._settings),
            "most_connections": max(samples["connections"]),
            "most_waiting": max(samples["waiting"]),
            "refused_connections": len(refused),
            "expired": scene.ask(EXPIRED),
            "zombies_refused": scene.ask(ZOMBIES),
            "outage_s": round(self._outage_ended_s - self._outage_began_s, 1),
            "recovery_s": recovered_after(samples, self._outage_began_s, self._outage_ended_s),
        }


def room_of(settings: Settings) -> int:
    """Connections that the company can have: the run itself looks on from one more."""
    return settings.max_connections - RESERVED - 1


def per_second(at_s: Sequence[float], counts: Sequence[float]) -> list[float]:
    """How fast a count grew, over the second that ended with each sample."""
    rates = []
    for n, now_s in enumerate(at_s):
        first = next(i for i in range(n + 1) if at_s[i] >= now_s - 1.0)
        rates.append(round((counts[n] - counts[first]) / max(1.0, now_s - at_s[first]), 1))
    return rates


def recovered_after(samples: Series, began_s: float, ended_s: float) -> float:
    """How long after the outage there were again as few open jobs as at most before it."""
    seen = list(zip(samples["at_s"], samples["open_jobs"], strict=True))
    usual = max((jobs for at_s, jobs in seen if at_s < began_s), default=0)
    return round(
        next(at_s - ended_s for at_s, jobs in seen if at_s >= ended_s and jobs <= usual), 1
    )


def unmet(run: Mapping[str, Any]) -> list[str]:
    """What the report says and this run does not bear out."""
    naive, jobq = run["naive"]["figures"], run["jobq"]["figures"]
    claims = {
        "the first queue charged orders more than once": naive["charged_twice"] > 0,
        "its jobs died, and customers had been charged for them": naive["dead_and_charged"] > 0,
        "its workers were refused connections": naive["refused_connections"] > 0,
        "the shop turned orders away": naive["orders_turned_away"] > 0,
        "its leases expired": naive["expired"] > 0,
        "jobq charged every order once": jobq["charged_twice"] == jobq["not_charged"] == 0
        and jobq["charges"] == jobq["orders_taken"],
        "on jobq no job died": jobq["jobs_dead"] == 0,
        "on jobq nobody was refused a connection": jobq["refused_connections"] == 0
        and jobq["orders_turned_away"] == 0,
        "jobq made fewer attempts": jobq["attempts_in_outage"] < naive["attempts_in_outage"],
    }
    return [claim for claim, is_so in claims.items() if not is_so]


def _last(error: Exception) -> str:
    """The reason in what libpq says, without its address."""
    return str(error).strip().rpartition("failed: ")[2]

"""The incident, once on each queue: a host pauses for longer than a lease, and a worker is killed.

Both faults hit at the worst moment, which is held shut until they do: the pause between a handler's
last check and its charge, the kill between a charge and the worker's "done".
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobq import JobQueue
from postmortems import alerts
from postmortems.double_charge.app import NAIVE_VARIABLE, WORK_VARIABLE, Moment, charge
from postmortems.sampling import Every, measured
from postmortems.scene import Process, Scene, jobq_worker, scene_in
from postmortems.shop import NOT_CHARGED, ORDER, RECONCILIATION, Order, make_orders

APP = "postmortems.double_charge.app:app"


@dataclass(frozen=True, slots=True)
class Settings:
    orders: int = 800
    customers: int = 300
    hosts: int = 2
    workers_per_host: int = 2
    concurrency: int = 8
    work_s: float = 0.25
    lease_s: float = 3.0
    pause_for_at_least_s: float = 6.0
    reconcile_every_s: float = 5.0
    seed: int = 1


SMALL = Settings(
    orders=120,
    workers_per_host=1,
    work_s=0.05,
    concurrency=4,
    lease_s=2.0,
    pause_for_at_least_s=3.0,
    reconcile_every_s=0.5,
)

WORKERS = "SELECT count(*) FROM jobq.workers"
TWICE = f"SELECT count(*) FROM ({RECONCILIATION}) AS twice"
CHARGES = "SELECT count(*) FROM charges"
DONE = "SELECT count(*) FROM jobq.commit_records WHERE outcome = 'committed'"
DEAD = "SELECT count(*) FROM jobq.commit_records WHERE outcome = 'dead'"
OPEN = """
SELECT count(*) FROM jobq.jobs WHERE id IN (SELECT job_id FROM jobq.ready
    UNION ALL SELECT job_id FROM jobq.scheduled UNION ALL SELECT job_id FROM jobq.leases)
"""
ZOMBIES = "SELECT count(*) FROM (SELECT DISTINCT job_id, token FROM jobq.refusals) AS zombies"
ENDED = "SELECT count(*) FROM jobq.attempts WHERE outcome = %s"
HELD_BY = "SELECT job_id, token FROM jobq.leases WHERE worker LIKE %s ORDER BY job_id"
AT_THE_GATE = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND mode = 'ShareLock'
    AND classid = %s AND objid = %s
"""
OF_ORDERS = "SELECT count(*) FROM charges WHERE order_id = ANY (%s)"
REFUSED_OF = """
SELECT count(DISTINCT (job_id, token)) FROM jobq.refusals WHERE job_id = ANY (%s)
"""
ONE_ORDER = """
SELECT extract(epoch FROM claimed_at)::float8, extract(epoch FROM charged_at)::float8, charged_by
FROM charges WHERE order_id = %s ORDER BY charged_at
"""
ITS_FIRST_ATTEMPT = """
SELECT extract(epoch FROM started_at)::float8, extract(epoch FROM ended_at)::float8
FROM jobq.attempts WHERE job_id = %s ORDER BY token LIMIT 1
"""
ITS_REFUSAL = """
SELECT extract(epoch FROM refused_at)::float8, stage, reason FROM jobq.refusals
WHERE job_id = %s ORDER BY refused_at LIMIT 1
"""


def play(settings: Settings, *, is_naive: bool) -> dict[str, Any]:
    """Run the incident on one of the queues; return what it did. Raises SceneFailed."""
    with (
        tempfile.TemporaryDirectory(prefix="postmortem-") as folder,
        scene_in(Path(folder)) as scene,
    ):
        return Incident(settings, scene, is_naive=is_naive).run()


class Incident:
    def __init__(self, settings: Settings, scene: Scene, *, is_naive: bool) -> None:
        self._settings = settings
        self._scene = scene
        self._is_naive = is_naive
        self._orders = make_orders(settings.orders, settings.customers, settings.seed)
        self._jobs: dict[int, Order] = {}
        self._finance = scene.session()
        self._found: list[tuple[Any, ...]] = []
        self._reconciliations = 0
        self._reconciled_s = 0.0
        self._paused_for_s = 0.0

    def run(self) -> dict[str, Any]:
        scene = self._scene
        workers = [
            self._start(f"worker {n}")
            for n in range(1, self._settings.hosts * self._settings.workers_per_host + 1)
        ]
        questions = {
            "charges": lambda: scene.ask(CHARGES),
            "twice": lambda: scene.ask(TWICE),
            "done": lambda: scene.ask(DONE),
            "leases": lambda: scene.ask("SELECT count(*) FROM jobq.leases"),
            "zombies_refused": lambda: scene.ask(ZOMBIES),
            "healed": lambda: scene.ask(ENDED, "healed"),
        }
        scene.wait_for(lambda: scene.ask(WORKERS) == len(workers), "the workers to be there")
        scene.begin()
        with (
            measured(scene, questions) as (sampler, scraper),
            Every(self._settings.reconcile_every_s, self._reconcile, "finance").running(),
        ):
            quarter = len(self._orders) // 4
            self._bill("first quarter", self._orders[:quarter])
            scene.wait_for(lambda: scene.ask(CHARGES) >= quarter // 2, "the first charges")
            paused = self._pause_a_host(
                workers[: self._settings.workers_per_host], self._orders[quarter:-quarter]
            )
            killed = self._kill(workers[-1], self._orders[-quarter:])
            scene.wait_for(lambda: scene.ask(OPEN) == 0, "every job to be at its end")
            self._tell("drained", f"the queue shows {self._shown()}")
            self._wait_for_finance()
            seconds = math.ceil(scene.chronicle.now_s())
        metrics = scraper.series(alerts.metric_names())
        return {
            "events": [asdict(event) for event in scene.chronicle.events],
            "figures": self._figures(paused, killed),
            "one_order": self._story_of(paused[0]),
            "samples": sampler.series,
            "metrics": metrics,
            "seconds": seconds,
            "alerts": alerts.first_fired(metrics, seconds),
        }

    def _tell(self, key: str, text: str) -> float:
        return self._scene.chronicle.tell(key, text)

    def _start(self, name: str) -> Process:
        settings = self._settings
        return self._scene.start(
            name,
            jobq_worker(APP, concurrency=settings.concurrency, lease_s=settings.lease_s),
            **{
                NAIVE_VARIABLE: "1" if self._is_naive else "",
                WORK_VARIABLE: str(settings.work_s),
            },
        )

    def _bill(self, which: str, orders: Sequence[Order]) -> None:
        """Orders and jobs in one transaction."""
        session = self._scene.session()
        with session.transaction():
            session.cursor().executemany(
                ORDER, [(one.id, one.customer_id, one.cents) for one in orders]
            )
            requests = [charge.request(order_id=one.id, cents=one.cents) for one in orders]
            handles = JobQueue(self._scene.url).enqueue_many_in(session, requests)
        session.close()
        self._jobs |= {job.id: order for job, order in zip(handles, orders, strict=True)}
        self._tell(
            which.replace(" ", "_"),
            f"the {which} of the billing run is enqueued: {len(orders):,} orders",
        )

    # -- the faults

    def _pause_a_host(self, host: Sequence[Process], orders: Sequence[Order]) -> list[int]:
        """Stop all workers of a host between their last check and their charges; return the jobs
        that they had in hand."""
        scene = self._scene
        with self._held_shut(Moment.FRAUD_CHECK):
            self._bill("middle half", orders)
            for worker in host:
                self._wait_before(Moment.FRAUD_CHECK, worker)
            for worker in host:
                worker.freeze()
        in_hand = sorted(job for worker in host for job in self._held_by(worker))
        names = " and ".join(worker.name for worker in host)
        paused_s = self._tell(
            "paused",
            f"the host of {names} is paused (SIGSTOP), about to make {len(in_hand)} charges",
        )
        scene.wait_for(
            lambda: not any(self._held_by(worker) for worker in host), "their leases to be ended"
        )
        self._tell("expired", f"their {len(in_hand)} leases have expired and are recovered")
        order_ids = [self._jobs[job].id for job in in_hand]
        scene.wait_for(
            lambda: scene.ask(OF_ORDERS, order_ids) == len(in_hand),
            "others to make their charges",
        )
        self._tell("charged_elsewhere", f"the other host has made all {len(in_hand)} charges")
        scene.wait_until(paused_s + self._settings.pause_for_at_least_s)
        for worker in host:
            worker.wake()
        self._tell("resumed", "the host is resumed (SIGCONT); its handlers go on where they were")
        scene.wait_for(
            lambda: (
                scene.ask(OF_ORDERS, order_ids) + scene.ask(REFUSED_OF, in_hand) == 2 * len(in_hand)
            ),
            "the paused attempts to be charged or refused",
        )
        again = scene.ask(OF_ORDERS, order_ids) - len(in_hand)
        self._tell(
            "late_attempts",
            f"of the {len(in_hand)} late attempts {again} have charged and "
            f"{len(in_hand) - again} were refused",
        )
        self._paused_for_s = scene.chronicle.at_s("resumed") - paused_s
        return in_hand

    def _kill(self, worker: Process, orders: Sequence[Order]) -> list[int]:
        """Kill a worker whose charges are committed and not yet reported; return their jobs."""
        scene = self._scene
        with self._held_shut(Moment.RECEIPT):
            self._bill("last quarter", orders)
            self._wait_before(Moment.RECEIPT, worker)
            in_hand = self._held_by(worker)
            worker.kill()
        order_ids = [self._jobs[job].id for job in in_hand]
        made = scene.ask(OF_ORDERS, order_ids)
        self._tell(
            "killed",
            f"{worker.name} is killed (SIGKILL), with {made} charges made and not yet reported "
            "as done",
        )
        scene.wait_for(lambda: not self._held_by(worker), "its leases to be ended")
        healed = scene.ask(ENDED, "healed")
        self._tell(
            "recovered",
            f"its {len(in_hand)} leases have expired: {healed} jobs are finalized by their commit "
            f"record, {len(in_hand) - healed} are to be tried again",
        )
        return in_hand

    @contextmanager
    def _held_shut(self, moment: Moment) -> Iterator[None]:
        """Hold a moment shut for all workers: those that are not meant must not run out of jobs
        before the others have come."""
        with self._scene.session() as session:
            for worker in self._scene.processes:
                session.execute("SELECT pg_advisory_lock(%s, %s)", (moment.value, worker.pid))
            yield

    def _wait_before(self, moment: Moment, worker: Process) -> None:
        self._scene.wait_for(
            lambda: (
                self._scene.ask(AT_THE_GATE, moment.value, worker.pid) == self._settings.concurrency
            ),
            f"the handlers of {worker.name} before {moment.name}",
        )

    def _held_by(self, worker: Process) -> list[int]:
        rows = self._scene.watch.execute(HELD_BY.encode(), (f"%:{worker.pid}:%",))
        return [job for job, _ in rows]

    # -- what is seen of it

    def _shown(self) -> str:
        return (
            f"{self._scene.ask(DONE):,} jobs done, {self._scene.ask(DEAD)} dead, "
            f"{self._scene.ask(OPEN)} open"
        )

    def _reconcile(self) -> None:
        """What finance does at its own pace: it compares orders with charges."""
        began_s = self._scene.chronicle.now_s()
        found = self._finance.execute(RECONCILIATION.encode()).fetchall()
        self._reconciliations += 1
        if len(found) > len(self._found):
            over = sum(row[3] for row in found)
            self._tell(
                f"found_{len(found)}",
                f"reconciliation finds {len(found)} orders charged twice, "
                f"{over / 100:,.2f} too much",
            )
        self._found = found
        self._reconciled_s = began_s

    def _wait_for_finance(self) -> None:
        """For a reconciliation that began after the last charge was made."""
        last_s = self._scene.chronicle.now_s()
        self._scene.wait_for(lambda: self._reconciled_s > last_s, "finance")
        if not self._found:
            self._tell("reconciled", "reconciliation finds nothing")

    def _figures(self, paused: Sequence[int], killed: Sequence[int]) -> dict[str, Any]:
        scene = self._scene
        twice = {row[0] for row in self._found}
        return {
            "orders": len(self._orders),
            "charges": scene.ask(CHARGES),
            "not_charged": scene.ask(NOT_CHARGED),
            "charged_twice": len(twice),
            "charged_twice_by_pause": len(twice & {self._jobs[job].id for job in paused}),
            "charged_twice_by_kill": len(twice & {self._jobs[job].id for job in killed}),
            "most_charges_of_an_order": max((row[2] for row in self._found), default=1),
            "overcharged_cents": int(sum(row[3] for row in self._found)),
            "customers_overcharged": len({row[1] for row in self._found}),
            "billed_cents": sum(order.cents for order in self._orders),
            "in_hand_at_pause": len(paused),
            "in_hand_at_kill": len(killed),
            "paused_for_s": round(self._paused_for_s, 1),
            "zombies_refused": scene.ask(ZOMBIES),
            "healed": scene.ask(ENDED, "healed"),
            "expired": scene.ask(ENDED, "expired"),
            "jobs_done": scene.ask(DONE),
            "jobs_dead": scene.ask(DEAD),
            "jobs_open": scene.ask(OPEN),
            "reconciliations": self._reconciliations,
        }

    def _story_of(self, job: int) -> dict[str, Any]:
        """One order, from its first claim to its last word."""
        scene, order = self._scene, self._jobs[job]
        names = {process.pid: process.name for process in scene.processes}
        first = scene.watch.execute(ITS_FIRST_ATTEMPT.encode(), (job,)).fetchone()
        assert first is not None
        refusal = scene.watch.execute(ITS_REFUSAL.encode(), (job,)).fetchone()
        return {
            "order": order.id,
            "cents": order.cents,
            "first_claimed_s": scene.at_s(first[0]),
            "lease_ended_s": scene.at_s(first[1]),
            "charges": [
                {
                    "claimed_s": scene.at_s(claimed),
                    "charged_s": scene.at_s(charged),
                    "by": names[by],
                }
                for claimed, charged, by in scene.watch.execute(ONE_ORDER.encode(), (order.id,))
            ],
            "refused": refusal
            and {"at_s": scene.at_s(refusal[0]), "stage": refusal[1], "reason": refusal[2]},
        }


def unmet(run: Mapping[str, Any]) -> list[str]:
    """What the report says and this run does not bear out."""
    naive, jobq = run["naive"]["figures"], run["jobq"]["figures"]
    claims = {
        "every charge in hand at the pause was made twice": naive["charged_twice_by_pause"]
        == naive["in_hand_at_pause"],
        "every charge in hand at the kill was made twice": naive["charged_twice_by_kill"]
        == naive["in_hand_at_kill"],
        "no other charge was": naive["charged_twice"]
        == naive["charged_twice_by_pause"] + naive["charged_twice_by_kill"],
        "the first queue showed every job done": naive["jobs_done"] == naive["orders"]
        and naive["jobs_dead"] == naive["jobs_open"] == naive["zombies_refused"] == 0,
        "jobq charged every order once": jobq["charges"] == jobq["orders"]
        and jobq["charged_twice"] == jobq["not_charged"] == 0,
        "jobq refused every late attempt": jobq["zombies_refused"] == jobq["in_hand_at_pause"],
        "jobq finalized by the record what the kill left": jobq["healed"]
        == jobq["in_hand_at_kill"],
        "both runs met the same faults": naive["in_hand_at_pause"] == jobq["in_hand_at_pause"]
        and naive["in_hand_at_kill"] == jobq["in_hand_at_kill"],
    }
    return [claim for claim, is_so in claims.items() if not is_so]

"""FM_023: two steps wait for each other's rows, and the database ends one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

import psycopg

from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import LEASE_S, TASK, Shop
from jobq.failure_modes.transactions import WAIT_S, OpenTransaction, Parties, parties_of
from jobq.failure_modes.weakened import by
from jobq.protocol.unique import Unique
from jobq.protocol.values import JobRequest, Lease
from jobq.store import PostgresStore
from jobq.store.postgres import EXCHANGE, LOCK_EXPIRED, RECORD_CANCELLED
from jobq.store.step import Statement, Step
from jobq.store.unique import enqueue_unique

GATE_KEY = 23
WAIT_AT_GATE = f"SELECT pg_advisory_xact_lock({GATE_KEY})"
LOCK_LEASE = "SELECT FROM jobq.leases WHERE job_id = {job_id} FOR UPDATE"
TAKE_LEASE = """
SELECT token FROM {schema}.leases WHERE shard = %(shard)s AND job_id = %(job_id)s FOR UPDATE
"""

INSTEAD = {
    EXCHANGE: EXCHANGE.replace("    ORDER BY job_id\n), held", "), held").replace(
        "FOR UPDATE SKIP LOCKED", "FOR UPDATE"
    ),
    LOCK_EXPIRED: LOCK_EXPIRED.replace("FOR UPDATE SKIP LOCKED", "FOR UPDATE"),
}


class _InAnyOrder(PostgresStore):
    """What is missing: the order of locks. Rows are locked as they come, whoever meets a locked
    one waits, and to cancel is to write the fate first and to take the lease after it."""

    def _statement(self, template: str, **params: object) -> Statement:
        return super()._statement(INSTEAD.get(template, template), **params)

    def cancel(self, job_id: int) -> Step[bool]:
        yield from self._has_fate(job_id)
        rows = yield self._statement(RECORD_CANCELLED, job_id=job_id, token=1)
        yield self._statement(TAKE_LEASE, job_id=job_id)
        return bool(rows)


@dataclass(frozen=True, slots=True)
class Meeting:
    """Two steps over the same rows; the gate holds the first up when it has locked some."""

    close_gate: Callable[[OpenTransaction], object]
    first: Step[Any]
    second: Step[Any]


Scene = Callable[[Shop], Meeting]


def enqueue_and_enqueue(shop: Shop) -> Meeting:
    """Unique jobs: their keys are rows, locked until their transaction ends."""
    return _enqueues(shop, enqueue_unique)


def enqueue_one_by_one(shop: Shop) -> Meeting:
    """The same as a loop in the caller's transaction, in the caller's order."""

    def each(store: Any, requests: Sequence[JobRequest]) -> Step[None]:
        for request in requests:
            yield from enqueue_unique(store, [request])

    return _enqueues(shop, each)


def _enqueues(shop: Shop, enqueue: Callable[[Any, Sequence[JobRequest]], Step[Any]]) -> Meeting:
    store = shop.database.store
    asked = sorted(
        (Unique(key=f"order {n}").request(TASK, {}) for n in range(3)), key=lambda u: u.key
    )
    first, middle, last = (
        JobRequest(TASK, "{}", "keyed", 0, 5, None, 0.0, unique=unique) for unique in asked
    )
    return Meeting(
        lambda gate: gate.run(enqueue_unique(store, [middle])),
        enqueue(store, [first, middle, last]),
        enqueue(store, [last, first]),
    )


def claim_and_claim(shop: Shop) -> Meeting:
    """Two workers serve the same queues, and neither favours one."""
    queues = ["a", "b", "c"]
    middle = [shop.enqueue(queue=queue) for queue in queues][1]

    def claim(worker: str, served: Sequence[str]) -> Step[Any]:
        return shop.database.store.claim(
            worker=worker, queues=served, tasks=[TASK], limit=10, lease_s=LEASE_S
        )

    lock = f"SELECT FROM {shop.schema}.ready WHERE job_id = {middle} FOR UPDATE"
    return Meeting(lambda gate: gate.sql(lock), claim("A", queues), claim("B", queues[::-1]))


def finalize_and_finalize(shop: Shop) -> Meeting:
    """A worker's jobs are committed; a zombie that was refused wants them finalized as well."""
    leases = _committed(shop)
    store = shop.database.store
    return Meeting(
        _holding(shop, leases[1]), store.finalize(leases), store.finalize([leases[2], leases[0]])
    )


def finalize_and_reconcile(shop: Shop) -> Meeting:
    """The leases were over before their worker came to finalize them, the last job's first."""
    leases = _committed(shop)
    shop.expire(*leases)
    shop.sql(
        "UPDATE jobq.leases SET lease_expires_at = lease_expires_at - interval '1 day' "
        f"WHERE job_id = {leases[2].job_id}"
    )
    store = shop.database.store
    return Meeting(
        _holding(shop, leases[1]), store.finalize(leases), store.reconcile(100, lambda _: 0.0)
    )


def cancel_and_commit(shop: Shop) -> Meeting:
    """An order is cancelled while its job comes to its boundary."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    store = shop.database.store
    return Meeting(
        lambda gate: gate.sql(WAIT_AT_GATE),
        _gated(store.cancel(job_id), after=2),
        store.commit_record(a),
    )


SCENES: dict[str, Scene] = {
    "enqueue and enqueue": enqueue_and_enqueue,
    "claim and claim": claim_and_claim,
    "finalize and finalize": finalize_and_finalize,
    "finalize and reconcile": finalize_and_reconcile,
    "cancel and commit": cancel_and_commit,
}
IN_ANY_ORDER: dict[str, Scene] = SCENES | {"enqueue and enqueue": enqueue_one_by_one}


def _committed(shop: Shop) -> list[Lease]:
    shop.enqueue_many(3)
    leases = [claimed.lease for claimed in shop.claim("A", 3)]
    for lease in leases:
        effect = shop.effect(lease, "A")
        effect.charge()
        effect.commit()
    return leases


def _holding(shop: Shop, lease: Lease) -> Callable[[OpenTransaction], object]:
    lock = LOCK_LEASE.replace("jobq.", f"{shop.schema}.").format(job_id=lease.job_id)
    return lambda gate: gate.sql(lock)


def _gated(step: Step[Any], *, after: int) -> Step[Any]:
    """The step, which waits at the gate when so many of its statements are done."""
    try:
        statement = next(step)
        for number in range(1, 100):
            rows = yield statement
            if number == after:
                yield Statement(WAIT_AT_GATE, {})
            statement = step.send(rows)
    except StopIteration as end:
        return end.value


def play(shop: Shop, scenes: dict[str, Scene] = SCENES) -> Finding:
    """Each two steps meet: the first has locked some rows, the second begins at the other end."""
    facts: dict[str, list[str]] = {}
    for name, scene in scenes.items():
        with parties_of(shop) as parties:
            facts[name] = _meet(parties, scene(shop))
    deadlocks = [name for name, endings in facts.items() if "deadlock" in endings]
    return Finding(
        is_harmed=bool(deadlocks),
        detail=f"{len(deadlocks)} of {len(facts)} meetings were deadlocks, one of the two undone: "
        + ", ".join(deadlocks)
        if deadlocks
        else f"both sides came through in all {len(facts)} meetings",
        seen=facts,
    )


def _meet(parties: Parties, meeting: Meeting) -> list[str]:
    gate, first, second = parties.open(), parties.open(), parties.open()
    meeting.close_gate(gate)
    started: dict[Future[Any], OpenTransaction] = {}
    for party, step in ((first, meeting.first), (second, meeting.second)):
        running = party.start(step)
        started[running] = party
        parties.wait_until_blocked_or_done(party.pid, running)
    gate.rollback()
    endings: dict[OpenTransaction, str] = {}
    while waiting := [running for running, party in started.items() if party not in endings]:
        ended, _ = wait(waiting, WAIT_S, FIRST_COMPLETED)
        assert ended, f"waited {WAIT_S:g} s for one of two steps to end"
        for running in ended:
            endings[started[running]] = _ended(running, started[running])
    return [endings[first], endings[second]]


def _ended(running: Future[Any], party: OpenTransaction) -> str:
    try:
        running.result()
    except psycopg.errors.DeadlockDetected:
        party.rollback()
        return "deadlock"
    except Exception as error:  # noqa: BLE001 - a refusal, of a commit by a cancel say
        party.rollback()
        return type(error).__name__
    party.commit()
    return "done"


def reproduce(shop: Shop) -> Finding:
    """On steps that lock their rows as they come."""
    shop.weaken(by(_InAnyOrder))
    return play(shop, IN_ANY_ORDER)


FM = FailureMode(
    id="FM_023",
    title="deadlock between two steps",
    invariants=("liveness",),
    reproduce=reproduce,
    prevent=play,
    not_on_sqlite="one writer at a time: there is one lock, and nobody holds half of it",
)

"""What the actors do: jobq's own steps, in the transactions in which jobq runs them.

A program is a generator that yields its moves. Between two moves anything may happen: another
actor's move, a crash, the loss of a COMMIT's answer. The statements are those of the real `Store`,
the reports are sent by the worker's real `Reports`; what is written here again is only the order
in which `jobq.commit` runs the steps of the boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from jobq.errors import AlreadyCommitted, Refusal
from jobq.protocol.states import AttemptEnd, Stage
from jobq.protocol.values import (
    AttemptError,
    ClaimedJob,
    FailedAttempt,
    Lease,
    Record,
    RefusedReport,
)
from jobq.store import Store
from jobq.store.base import NOTHING
from jobq.store.step import Rows, Statement, Step
from jobq.worker.reports import Committed, Reports, Returned, Sent
from tests.chaos.history import Answer, Op, Operation

T = TypeVar("T")

CHARGE = "explorer.charge"
NOTIFY = "explorer.notify"
"""Its attempts have no effect in the database: their record is written by `complete`."""
QUEUE = "default"
ALREADY_EXPIRED_S = -1.0
"""A lease that anybody may recover at once. When a lease expires matters only to the reconciler,
and a reconciler that comes before that does nothing: so the schedules in which leases are expired
from birth are those with an expiry at every possible cut."""
LONG_S = 3600.0
BOOM = AttemptError("Boom", "the handler failed", "")
MAX_REPEATS = 2
"""How often a report is repeated while somebody else has the lease locked. A worker goes on for
ever; here the rest of its life is the reconciler's business."""

LEDGER = """
CREATE TABLE IF NOT EXISTS explorer_ledger (shard int, job_id bigint, token bigint, worker text)
"""
INSERT_EFFECT = """
INSERT INTO explorer_ledger VALUES (%(shard)s, %(job_id)s, %(token)s, %(worker)s)
"""


class End(Enum):
    """The move that ends a transaction."""

    COMMIT = "COMMIT"
    """Where its answer is lost the actor gives up: as if it had crashed, before or after it."""
    COMMIT_OR_ASK = "COMMIT, and go on when its answer is lost"
    ROLLBACK = "ROLLBACK"


class Told(Enum):
    """What an actor is told of its COMMIT."""

    COMMITTED = "committed"
    NOTHING = "the answer was lost"


@dataclass(frozen=True, slots=True)
class Unseen:
    """A statement that is run with the one before it, in the same move.

    Allowed only where it hides nothing: it waits for nobody, nobody waits for what it locks, and
    nobody sees what it wrote before COMMIT. So it commutes with every move of the others.
    """

    statement: Statement


Move = Statement | Unseen | End
Program = Generator[Move, Any, T]


@dataclass
class Cast:
    """What the actors of one schedule have to do with."""

    store: Store
    task: str
    jobs: Sequence[int] = ()
    leases: dict[str, list[Lease]] = field(default_factory=dict)
    """The leases that the scene begins with, by their holder."""
    history: list[Operation] = field(default_factory=list)

    def tell(self, who: str, op: Op, answer: Answer = Answer.NONE, **facts: Any) -> None:
        self.history.append(Operation(op, answer, source=who, **facts))

    def tell_claim(self, who: str, claimed: ClaimedJob, *, is_started: bool = True) -> None:
        lease = claimed.lease
        facts = {"job": lease.job_id, "token": lease.token, "attempt": claimed.attempt}
        self.tell(who, Op.CLAIM, Answer.NONE, **facts)
        if is_started:
            self.tell(who, Op.START, Answer.NONE, **facts)


Actor = Callable[[Cast], Program[None]]


def in_transaction(step: Step[T]) -> Program[T]:
    """Run a step in a transaction of its own."""
    result = yield from step
    yield End.COMMIT
    return result


def until_answered(step_of: Callable[[], Step[T]]) -> Program[T]:
    """Run a step in a transaction of its own, again for as long as its answer is lost."""
    while True:
        result = yield from step_of()
        if (yield End.COMMIT_OR_ASK) is Told.COMMITTED:
            return result


def unseen(step: Step[T]) -> Program[T]:
    """Run a step in the move before it. See `Unseen`."""
    rows: Rows | None = None
    while True:
        try:
            statement = next(step) if rows is None else step.send(rows)
        except StopIteration as end:
            result: T = end.value
            return result
        rows = yield Unseen(statement)


# -- attempts


def attempt(cast: Cast, who: str, lease: Lease) -> Program[None]:
    """The handler runs, and the worker reports."""
    if cast.task == NOTIFY:
        yield from attempt_all(cast, who, [lease])
    else:
        yield from apply_effect(cast, who, lease)


def attempt_all(cast: Cast, who: str, leases: Sequence[Lease]) -> Program[None]:
    """Handlers without an effect in the database have returned."""
    reports = Reports()
    for lease in leases:
        reports.add(Returned(lease))
    yield from deliver(cast, who, reports)


def apply_effect(cast: Cast, who: str, lease: Lease) -> Program[None]:
    """The effect's transaction, and the report that follows."""
    reports = yield from commit_effect(cast, who, lease)
    yield from deliver(cast, who, reports)


def commit_effect(cast: Cast, who: str, lease: Lease) -> Program[Reports]:
    """The boundary, as `jobq.commit.commit_effect_idempotent` runs it; return what to report."""
    cast.tell(who, Op.EFFECT, job=lease.job_id, token=lease.token)
    reports = Reports()
    try:
        recorded = yield from cast.store.commit_record(lease)
    except Refusal as refusal:
        yield End.ROLLBACK
        record = None
        if isinstance(refusal, AlreadyCommitted):
            record = Record(refusal.token, refusal.outcome)
        _tell_refused(cast, who, RefusedReport(lease, Stage.COMMIT, record))
        reports.add(RefusedReport(lease, Stage.COMMIT, record))
        return reports
    # The ledger has no unique key and nobody reads it; the question after it is answered by a row
    # that is this transaction's own.
    yield Unseen(_charge(cast.store, lease, who))
    is_whole = yield from unseen(cast.store.confirm_record(recorded))
    if not is_whole:
        yield End.ROLLBACK
    elif (yield End.COMMIT_OR_ASK) is Told.NOTHING:
        is_whole = yield from until_answered(lambda: cast.store.settle(lease))
    _tell_commit(cast, who, lease, Answer.ACKNOWLEDGED if is_whole else Answer.FAILED)
    if is_whole:
        reports.add(Committed(lease))
    else:
        cast.tell(who, Op.FAIL, job=lease.job_id, token=lease.token)
        reports.add(FailedAttempt(lease, AttemptEnd.FAILED, BOOM, 0.0))
    return reports


def fail(cast: Cast, who: str, leases: Sequence[Lease]) -> Program[None]:
    """The handlers failed."""
    reports = Reports()
    for lease in leases:
        cast.tell(who, Op.FAIL, job=lease.job_id, token=lease.token)
        reports.add(FailedAttempt(lease, AttemptEnd.FAILED, BOOM, 0.0))
    yield from deliver(cast, who, reports)


def deliver(cast: Cast, who: str, reports: Reports) -> Program[None]:
    """Tell, as `jobq.worker.worker.Worker._take_turn` does, until everything is taken."""
    for _ in range(MAX_REPEATS):
        unrecorded: Sequence[Lease] = ()
        if reports.returned or reports.committed:
            ended = partial(cast.store.exchange, reports.returned, reports.committed, NOTHING)
            unrecorded = (yield from until_answered(ended)).unrecorded
        sent = Sent()
        if unrecorded or not reports.is_plain:
            explained = partial(reports.explain, cast.store, who, unrecorded)
            sent = yield from until_answered(explained)
        refused = {report.lease: report for report in sent.refused}
        for lease in reports.returned:
            if lease in refused:
                _tell_refused(cast, who, refused[lease])
            else:
                _tell_commit(cast, who, lease, Answer.ACKNOWLEDGED)
        reports = sent.again
        if not len(reports):
            return


def claim_and_attempt(cast: Cast, who: str) -> Program[None]:
    """A worker's whole life: it takes what is ready, runs it and reports."""
    claimed = yield from in_transaction(claim(cast, who))
    for job in claimed:
        cast.tell_claim(who, job)
        yield from attempt(cast, who, job.lease)


def claim(cast: Cast, who: str, lease_s: float = ALREADY_EXPIRED_S) -> Step[list[ClaimedJob]]:
    return cast.store.claim(
        worker=who, queues=[QUEUE], tasks=[cast.task], limit=len(cast.jobs), lease_s=lease_s
    )


def _tell_commit(cast: Cast, who: str, lease: Lease, answer: Answer, fate: str = "") -> None:
    cast.tell(who, Op.COMMIT, answer, job=lease.job_id, token=lease.token, fate=fate)


def _tell_refused(cast: Cast, who: str, report: RefusedReport) -> None:
    fate = "" if report.record is None else report.record.outcome.value
    _tell_commit(cast, who, report.lease, Answer.REFUSED, fate)


def _charge(store: Store, lease: Lease, who: str) -> Statement:
    facts = {"shard": store.shard, "job_id": lease.job_id, "token": lease.token, "worker": who}
    return Statement(INSERT_EFFECT, facts)


# -- everybody else


def release(cast: Cast, who: str, leases: Sequence[Lease]) -> Program[None]:
    yield from in_transaction(cast.store.release(leases))


def heartbeat(cast: Cast, who: str, leases: Sequence[Lease]) -> Program[None]:
    for lease in leases:
        cast.tell(who, Op.HEARTBEAT, job=lease.job_id, token=lease.token)
    beat = yield from in_transaction(cast.store.heartbeat(who, leases, LONG_S))
    for lease in beat.cancelled:
        facts = {"job": lease.job_id, "token": lease.token, "fate": "cancelled"}
        cast.tell(who, Op.HEARTBEAT, Answer.TRUE, **facts)


def finalize(cast: Cast, who: str, leases: Sequence[Lease]) -> Program[None]:
    reports = Reports()
    for lease in leases:
        reports.add(Committed(lease))
    yield from deliver(cast, who, reports)


def reconcile(cast: Cast, who: str) -> Program[None]:
    """One pass of a worker's recovery: expired leases, then jobs that are due again."""
    yield from in_transaction(cast.store.reconcile(10, lambda _: 0.0))
    yield from promote(cast)


def promote(cast: Cast) -> Program[None]:
    yield from in_transaction(cast.store.promote(10))


def reconcile_nothing(cast: Cast) -> Program[None]:
    """A pass while the only leases are live ones: they are nobody's to take."""
    recovered = yield from in_transaction(cast.store.reconcile(10, lambda _: 0.0))
    taken = {*recovered.retried, *recovered.dead}
    assert not taken, f"I4: jobs {taken} were taken from a live lease"


def cancel(cast: Cast, who: str, job: int) -> Program[None]:
    is_cancelled = yield from in_transaction(cast.store.cancel(job))
    cast.tell(who, Op.CANCEL, Answer.TRUE if is_cancelled else Answer.FALSE, job=job)

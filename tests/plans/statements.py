"""Every hot statement, with parameters for the rows of `tables`, and how it must reach them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from jobq.models import DEFAULT_SCHEMA
from jobq.protocol.outside import OutsideEffects
from jobq.protocol.values import HEAD, Lease
from jobq.store import postgres
from jobq.store.ambiguous import unpark
from jobq.store.portable import Portable
from jobq.store.step import Step, first_of
from jobq.store.steps import begin, find_step, record_step
from tests.plans.plan import Access
from tests.plans.tables import AMBIGUOUS, ENDED, LEASED, QUEUES, READY, SCHEDULED, TASKS

BATCH = 20


class Session(Enum):
    """Where a statement is run, which decides how it is planned."""

    LINK = "link"
    """A worker's own connection: PLAN_ONCE."""
    CUSTOM = "custom"
    """A pooled connection: planned for these very parameters."""
    GENERIC = "generic"
    """The same, once the server has chosen to plan it for any."""


LINK = (Session.LINK,)
POOL = (Session.CUSTOM, Session.GENERIC)
ANYWHERE = (*LINK, *POOL)

Accesses = Mapping[str, Sequence[Access]]


def by(table: str, index: str, *columns: str) -> Accesses:
    return {table: (Access(index, columns),)}


JOB_KEY = by("jobs", "jobs_pkey", "id")
LEASE_KEY = by("leases", "leases_pkey", "job_id")
LEASE_EXPIRY = by("leases", "jobq_leases_expiry_idx", "lease_expires_at")
RECORD_KEY = by("commit_records", "commit_records_pkey", "job_id")
SCHEDULED_KEY = by("scheduled", "scheduled_pkey", "job_id")
SCHEDULED_DUE = by("scheduled", "jobq_scheduled_run_at_idx", "run_at")
READY_LINE = by("ready", "ready_pkey", "queue", "priority", "due_at", "job_id")
READY_KEY = by("ready", "ready_pkey", "queue", "priority", "job_id")
ATTEMPT_KEY = by("attempts", "attempts_pkey", "job_id")
STEP_KEY = by("steps", "steps_pkey", "job_id")
AMBIGUOUS_KEY = by("ambiguous", "ambiguous_pkey", "job_id")
REFUSAL_KEY = by("refusals", "refusals_pkey", "job_id")


def all_of(*several: Accesses) -> Accesses:
    merged: dict[str, tuple[Access, ...]] = {}
    for accesses in several:
        for table, access in accesses.items():
            merged[table] = (*merged.get(table, ()), *access)
    return merged


@dataclass(frozen=True, slots=True)
class Hot:
    """A statement that runs while jobs do."""

    name: str
    """That of its template in `jobq.store.postgres`."""
    params: Mapping[str, object]
    expected: Accesses = field(default_factory=dict)
    sessions: Sequence[Session] = LINK
    rows: int = BATCH
    """How many rows of a table it may need to read."""
    sql: str | None = None
    """Its text, when it is made of expressions and has no template."""

    @property
    def template(self) -> str:
        template: str = self.sql or getattr(postgres, self.name)
        return template


def of_step(name: str, step: Step[Any], expected: Accesses) -> Hot:
    """The statement with which a step of expressions begins, about one job."""
    statement = first_of(step)
    assert statement is not None
    return Hot(name, statement.params, expected, POOL, 1, statement.sql)


def _some(ids: range) -> list[int]:
    return list(ids[4 :: len(ids) // BATCH // 4 * 4][:BATCH])


LEASES = {"job_ids": _some(LEASED), "tokens": [1] * BATCH}
# Not at the head of the walk, nor at its end.
ENDED_IDS = _some(ENDED)
HELD_LEASE = Lease(LEASED[8], 1)
PORTABLE = Portable("postgresql", DEFAULT_SCHEMA, 0)

STATEMENTS = (
    Hot(
        "ENQUEUE",
        {
            "channel": "jobq.ready",
            "tasks": TASKS[:2],
            "args": ["{}", "{}"],
            "queues": QUEUES[:2],
            "priorities": [0, 0],
            "max_attempts": [5, 5],
            "run_ats": [None, None],
            "delays_s": [0.0, 60.0],
            "headers": [None, None],
        },
        sessions=ANYWHERE,
    ),
    Hot(
        "ENQUEUE_LIMITED",
        {
            "channel": "jobq.ready",
            "tasks": TASKS[:2],
            "args": ["{}", "{}"],
            "queues": QUEUES[:2],
            "priorities": [0, 0],
            "max_attempts": [5, 5],
            "run_ats": [None, None],
            "delays_s": [0.0, 60.0],
            "headers": [None, None],
            "lines": ['["queue_0","mail"]'] * 2,
        },
        sessions=ANYWHERE,
    ),
    Hot("PROMOTE", {"limit": BATCH}, all_of(SCHEDULED_DUE, SCHEDULED_KEY, JOB_KEY)),
    # One row for each queue; the head has no queue to begin after.
    Hot("READY_QUEUES", {}, all_of(by("ready", "ready_pkey"), by("ready", "ready_pkey", "queue"))),
    # One row for each priority of each queue.
    Hot(
        "READY_PRIORITIES",
        {"queues": QUEUES},
        all_of(by("ready", "ready_pkey", "queue"), by("ready", "ready_pkey", "queue", "priority")),
    ),
    Hot(
        "EXCHANGE",
        {
            "job_ids": LEASES["job_ids"],
            "tokens": LEASES["tokens"],
            "are_recorded": [False, True] * (BATCH // 2),
            "worker": "w",
            "queues": QUEUES,
            "from_priorities": [HEAD.priority] * len(QUEUES),
            "from_due_ats": [HEAD.due_at] * len(QUEUES),
            "from_job_ids": [HEAD.job_id] * len(QUEUES),
            "tasks": TASKS,
            "limit": BATCH,
            "lease_s": 30.0,
        },
        all_of(LEASE_KEY, RECORD_KEY, READY_LINE, JOB_KEY),
    ),
    Hot("LISTEN", {"worker": "w", "queues": QUEUES, "again_s": 600.0}),
    Hot("UNLISTEN", {"worker": "w"}),
    # It stops at the first thousand that nobody knows; when all are known it reads the queues
    # whole. A worker asks once, in its first idle moment.
    Hot(
        "UNKNOWN_TASKS",
        {"queues": QUEUES, "tasks": ["other"]},
        by("ready", "ready_pkey", "queue"),
        rows=1000,
    ),
    Hot("SEE_WORKER", {"worker": "w", "about": None}),
    Hot("EXTEND", {**LEASES, "lease_s": 30.0}, LEASE_KEY),
    Hot("HELD", LEASES, LEASE_KEY),
    Hot("COMMIT_RECORD", {"job_id": LEASED[8], "token": 1}, LEASE_KEY, ANYWHERE, 1),
    Hot("COMMIT_RECORDS", LEASES, LEASE_KEY, ANYWHERE),
    Hot(
        "RECORD_RESULTS",
        {"job_ids": ENDED_IDS, "results": ["1"] * BATCH},
        RECORD_KEY,
        ANYWHERE,
    ),
    Hot("CONFIRM_RECORD", {"transaction": 0}, {}, ANYWHERE, 1),
    Hot("RECORDS", {"job_ids": ENDED_IDS}, RECORD_KEY, ANYWHERE),
    Hot("LOCK_LEASES", LEASES, all_of(LEASE_KEY, JOB_KEY)),
    Hot("LOCK_LEASES_FREE", LEASES, all_of(LEASE_KEY, JOB_KEY)),
    Hot("LOCK_EXPIRED", {"limit": BATCH}, all_of(LEASE_EXPIRY, JOB_KEY)),
    Hot(
        "END_ATTEMPTS",
        {
            **LEASES,
            "ends": ["failed"] * BATCH,
            "error_types": ["E"] * BATCH,
            "error_messages": ["m"] * BATCH,
            "tracebacks": ["t"] * BATCH,
            "retry_delays_s": [1.0, None] * (BATCH // 2),
            "attempts_spent": [1] * BATCH,
            "are_dead": [False, True] * (BATCH // 2),
        },
        LEASE_KEY,
    ),
    Hot("RELEASE", LEASES, all_of(LEASE_KEY, JOB_KEY, RECORD_KEY)),
    Hot("FATE", {"job_id": ENDED[8]}, all_of(JOB_KEY, RECORD_KEY), ANYWHERE, 1),
    Hot("SHARE_LEASE", {"job_id": LEASED[8]}, LEASE_KEY, POOL, 1),
    Hot("UNSCHEDULE", {"job_id": SCHEDULED[8]}, SCHEDULED_KEY, POOL, 1),
    Hot("UNREADY", {"job_id": READY[8]}, all_of(JOB_KEY, READY_KEY), POOL, 1),
    Hot("RECORD_CANCELLED", {"job_id": READY[8], "token": 0}, {}, POOL),
    Hot(
        "RECORD_REFUSALS",
        {
            "job_ids": ENDED_IDS,
            "tokens": [2] * BATCH,
            "stages": ["commit"] * BATCH,
            "reasons": ["lease_lost"] * BATCH,
            "worker": "w",
        },
        JOB_KEY,
    ),
    Hot("WALK", {"after": ENDED[0], "limit": BATCH}, all_of(JOB_KEY, RECORD_KEY)),
    Hot(
        "PRUNABLE",
        {"job_ids": ENDED_IDS, "min_age_s": 60.0},
        all_of(JOB_KEY, RECORD_KEY, LEASE_KEY),
    ),
    Hot(
        "LOCK_PRUNABLE",
        {"job_ids": ENDED_IDS, "min_age_s": 60.0},
        all_of(JOB_KEY, RECORD_KEY, LEASE_KEY),
    ),
    Hot(
        "DELETE_JOBS",
        {"job_ids": ENDED_IDS},
        all_of(JOB_KEY, RECORD_KEY, ATTEMPT_KEY, REFUSAL_KEY, STEP_KEY),
    ),
    Hot(
        "JOB",
        {"job_id": ENDED[8]},
        all_of(
            JOB_KEY,
            SCHEDULED_KEY,
            READY_KEY,
            LEASE_KEY,
            RECORD_KEY,
            ATTEMPT_KEY,
            AMBIGUOUS_KEY,
        ),
        POOL,
        1,
    ),
    Hot("ATTEMPTS", {"job_id": ENDED[8]}, ATTEMPT_KEY, POOL, 1),
    of_step("begin", begin(PORTABLE, HELD_LEASE, OutsideEffects.ASK), LEASE_KEY),
    of_step(
        "find_step",
        find_step(PORTABLE, HELD_LEASE, "call"),
        all_of(LEASE_KEY, RECORD_KEY, by("steps", "steps_pkey", "job_id", "name")),
    ),
    of_step("record_step", record_step(PORTABLE, HELD_LEASE, "call", "{}"), LEASE_KEY),
    of_step("unpark", unpark(PORTABLE, AMBIGUOUS[8]), AMBIGUOUS_KEY),
)

EXCUSED = {
    "ENQUEUE_WANTED": "not a statement: what the three enqueues are made of",
    "ENQUEUE_ONE": "reads no table, as ENQUEUE shows",
    "ENQUEUE_APART": "the same",
    "JOB_WITHOUT_CONTENTS": "JOB, with less to show",
    "PROMOTE_THOSE": "PROMOTE, of jobs that are named, when one of them spoils a batch",
    "EXCHANGE_THOSE": "EXCHANGE, the same",
    "ENQUEUE_STAGED": "reads its own temporary table whole, by design",
    "STAGE": "makes that table",
    "COPY_STAGED": "fills it",
    "UNSTAGE": "drops it",
    "WAKE": "reads no table",
    "STOP_WORKER": "once in a worker's life, on a table of workers",
    "OLD_WORKERS": "once in a walk of the pruner, on a table of workers",
    "LOCK_OLD_WORKERS": "the same",
    "DELETE_WORKERS": "the same",
    "COUNTS": "counts everything, for people who ask",
    "IS_MIGRATED": "once in a process, on the catalog",
    "REVISION": "once in a process, on a table of one row",
}
"""Templates whose plan does not matter, and why."""

"""FM_033: one row that the database refuses keeps its whole batch from being done, every time."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from jobq.client import JobQueue
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import TASK, Shop
from jobq.failure_modes.transactions import wait_until
from jobq.protocol.retention import HOUR_S, Retention, RetentionPolicy
from jobq.protocol.retry import Retry

ROWS = 20
ROUNDS = 3
KEEP = Retention(committed_s=HOUR_S)
REFUSED = "jobq_fm_refused"
TABLES = ("ready", "scheduled", "leases", "attempts", "commit_records", "jobs")

PutRight = Callable[[], object]


def refuse(shop: Shop, table: str, job_id: int) -> PutRight:
    """Have every statement fail that inserts this job's row; return what puts it right again."""
    if shop.is_sqlite:
        shop.sql(
            f"CREATE TRIGGER {REFUSED} BEFORE INSERT ON jobq.{table} "
            f"WHEN NEW.job_id = {job_id} BEGIN SELECT RAISE(ABORT, 'a bad row'); END"
        )
        return lambda: shop.sql(f"DROP TRIGGER {REFUSED}")
    shop.sql(
        f"ALTER TABLE jobq.{table} ADD CONSTRAINT {REFUSED} CHECK (job_id <> {job_id}) NOT VALID"
    )
    return lambda: shop.sql(f"ALTER TABLE jobq.{table} DROP CONSTRAINT {REFUSED}")


def refuse_deletion(shop: Shop, job_id: int) -> PutRight:
    """Have every statement fail that deletes this job: a row of the service's refers to it."""
    if shop.is_sqlite:
        shop.sql(
            f"CREATE TRIGGER {REFUSED} BEFORE DELETE ON jobq.jobs "
            f"WHEN OLD.id = {job_id} BEGIN SELECT RAISE(ABORT, 'a row refers to it'); END"
        )
        return lambda: shop.sql(f"DROP TRIGGER {REFUSED}")
    shop.sql(
        f"CREATE TABLE {REFUSED} (shard smallint, job_id bigint, "
        "FOREIGN KEY (shard, job_id) REFERENCES jobq.jobs (shard, id))"
    )
    shop.sql(f"INSERT INTO {REFUSED} VALUES (0, {job_id})")
    return lambda: shop.sql(f"DROP TABLE {REFUSED}")


# -- a batch before each step that takes one


def expired(shop: Shop) -> list[int]:
    job_ids = shop.enqueue_many(ROWS)
    shop.expire(*(claimed.lease for claimed in shop.claim("gone", ROWS)))
    return job_ids


def due(shop: Shop) -> list[int]:
    job_ids = [shop.enqueue(delay_s=3600.0) for _ in range(ROWS)]
    past = "0" if shop.is_sqlite else "'2000-01-01'"
    shop.sql(f"UPDATE jobq.scheduled SET run_at = {past}")
    return job_ids


def ready(shop: Shop) -> list[int]:
    return shop.enqueue_many(ROWS)


def old(shop: Shop) -> list[int]:
    job_ids = shop.enqueue_many(ROWS)
    shop.complete(*(claimed.lease for claimed in shop.claim("A", ROWS)))
    shop.grow_old(*job_ids, age_s=2 * HOUR_S)
    return job_ids


# Asked again and again while a worker works, so by a plain read: a step takes SQLite's write lock.
NOT_DONE = """
SELECT id FROM jobq.jobs WHERE id NOT IN (SELECT job_id FROM jobq.commit_records)
UNION SELECT job_id FROM jobq.leases
"""
NOT_PRUNED = "SELECT id FROM jobq.jobs"


@dataclass(frozen=True, slots=True)
class Scene:
    """A batch, the row that spoils it, and which jobs are not through."""

    stand: Callable[[Shop], list[int]]
    spoil: Callable[[Shop, int], PutRight]
    not_through: str = NOT_DONE


SCENES: dict[str, Scene] = {
    "recovered": Scene(expired, lambda shop, job_id: refuse(shop, "attempts", job_id)),
    "promoted": Scene(due, lambda shop, job_id: refuse(shop, "ready", job_id)),
    "claimed": Scene(ready, lambda shop, job_id: refuse(shop, "leases", job_id)),
    "reported": Scene(ready, lambda shop, job_id: refuse(shop, "commit_records", job_id)),
    "pruned": Scene(old, refuse_deletion, NOT_PRUNED),
}

Work = Callable[[Shop, Callable[[], bool]], None]
"""Works on what there is until it is enough, or for as long as it makes sense."""


def in_whole_batches(shop: Shop, is_enough: Callable[[], bool]) -> None:
    """A worker that repeats what failed: the same batch, with the same row in it."""

    def claim_and_complete() -> None:
        shop.complete(*(claimed.lease for claimed in shop.claim("A", ROWS)))

    steps: Sequence[Callable[[], object]] = (
        shop.reconcile,
        shop.promote,
        claim_and_complete,
        lambda: shop.prune(RetentionPolicy({TASK: KEEP})),
    )
    for _ in range(ROUNDS):
        for step in steps:
            with suppress(sqlite3.IntegrityError, psycopg.IntegrityError):
                step()


def by_jobqs_worker(shop: Shop, is_enough: Callable[[], bool]) -> None:
    app = JobQueue(shop.url, schema=shop.schema)
    app.task(name=TASK, keep=KEEP, retry=Retry(base_s=0.05, cap_s=0.1))(lambda: None)
    with app.worker(poll_s=0.02, prune_s=0.05):
        wait_until(is_enough, "the other rows of the batch")
    app.close()


def play(shop: Shop, work: Work = by_jobqs_worker) -> Finding:
    """Before each batched step one row of twenty is spoiled."""
    left = {name: _others_left(shop, scene, work) for name, scene in SCENES.items()}
    wedged = [name for name, others in left.items() if others]
    return Finding(
        is_harmed=bool(wedged),
        detail=f"one bad row of {ROWS} kept the others from being {', '.join(wedged)}"
        if wedged
        else f"one bad row of {ROWS}: the other {ROWS - 1} were {', '.join(SCENES)}",
        seen=left,
    )


def _others_left(shop: Shop, scene: Scene, work: Work) -> int:
    for table in TABLES:
        shop.sql(f"DELETE FROM jobq.{table}")
    job_ids = scene.stand(shop)
    bad = job_ids[ROWS // 2]
    put_right = scene.spoil(shop, bad)

    def left() -> set[int]:
        return {job_id for (job_id,) in shop.sql(scene.not_through)}

    work(shop, lambda: left() <= {bad})
    found = left()
    assert bad in found, f"job {bad} was to be refused"
    put_right()
    return len(found - {bad})


def reproduce(shop: Shop) -> Finding:
    """On a worker that repeats a batch as a whole."""
    return play(shop, in_whole_batches)


FM = FailureMode(
    id="FM_033",
    title="one bad row wedges its batch",
    invariants=("I6",),
    reproduce=reproduce,
    prevent=play,
)

"""FM_015: claims step over the dead, and the queue slows until it stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import LEASE_S, TASK, Shop
from jobq.failure_modes.transactions import OpenTransaction, parties_of
from jobq.failure_modes.weakened import by
from jobq.protocol.cursor import ClaimCursor
from jobq.protocol.values import ClaimedJob, Position
from jobq.store.base import NOWHERE
from jobq.store.postgres import PostgresStore
from jobq.store.step import Rows, Statement, Step

ROUNDS = 5
JOBS = 3_000
"""Jobs done in each round."""
BATCH = 500
LOOK_S = 0.1
"""What the look from the head is said to have taken. The clock stands still after it, so that what
is measured is the claims between this one and the next."""

# An old snapshot: a backup, a report, a session that somebody forgot, a replica's feedback.
HOLD = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM jobq.jobs")


class _FromTheHead(PostgresStore):
    """What is missing: a memory. Every claim begins with the first row that there ever was."""

    def claim(
        self,
        *,
        worker: str,
        queues: Sequence[str],
        tasks: Sequence[str],
        limit: int,
        lease_s: float,
        since: Mapping[str, Position] = NOWHERE,
    ) -> Step[list[ClaimedJob]]:
        return super().claim(
            worker=worker, queues=queues, tasks=tasks, limit=limit, lease_s=lease_s
        )


def claim(shop: Shop, limit: int, since: Mapping[str, Position]) -> Step[list[ClaimedJob]]:
    return shop.database.store.claim(
        worker="A", queues=["default"], tasks=[TASK], limit=limit, lease_s=LEASE_S, since=since
    )


def play(shop: Shop) -> Finding:
    """A worker is busy while a snapshot is held; what does its next claim have to read?"""
    cursor = ClaimCursor()
    buffers = []
    with parties_of(shop) as parties:
        holder, measuring = parties.open(), parties.open()
        shop.enqueue_many(BATCH)
        work(shop, cursor, 1)
        shop.sql("VACUUM")
        shop.enqueue()
        measure(shop, measuring, cursor)  # the first time, the catalogue is read too
        for statement in HOLD:
            holder.sql(statement.replace("jobq.", f"{shop.schema}."))
        for _ in range(ROUNDS + 1):
            shop.enqueue()  # the job that is next
            buffers.append(measure(shop, measuring, cursor))
            shop.enqueue_many(JOBS)
            work(shop, cursor, JOBS // BATCH)
    return Finding(
        is_harmed=buffers[-1] > 3 * buffers[0],
        detail=f"a claim reads {buffers[0]} pages at first and {buffers[-1]} after "
        f"{ROUNDS * JOBS} jobs",
        seen={"buffers": buffers},
    )


def work(shop: Shop, cursor: ClaimCursor, claims: int) -> None:
    """Claim so many batches and report them done, as a worker does."""
    for _ in range(claims):
        claimed = shop.database.run(claim(shop, BATCH, cursor.since(0.0)))
        cursor.advance(claimed, 0.0, LOOK_S)
        shop.complete(*(job.lease for job in claimed))


def measure(shop: Shop, transaction: OpenTransaction, cursor: ClaimCursor) -> int:
    """Return how many pages PostgreSQL touches for the next claim, which is then undone."""
    ((plan,),) = transaction.run(_explained(claim(shop, 1, cursor.since(0.0))))
    transaction.rollback()
    top: dict[str, Any] = plan[0]["Plan"]
    return int(top["Shared Hit Blocks"]) + int(top["Shared Read Blocks"])


def _explained(step: Step[Any]) -> Step[Rows]:
    statement = next(step)
    sql = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.sql}"
    return (yield Statement(sql, statement.params))


def reproduce(shop: Shop) -> Finding:
    """With claims that always begin at the head of the line."""
    shop.weaken(by(_FromTheHead))
    return play(shop)


FM = FailureMode(
    id="FM_015",
    title="dead rows at the head of the line",
    invariants=("liveness",),
    reproduce=reproduce,
    prevent=play,
    not_on_sqlite="what is deleted is out of its index at once, whoever reads",
)

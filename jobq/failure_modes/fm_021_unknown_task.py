"""FM_021: a worker takes jobs of tasks that it does not have, and spends their attempts."""

from __future__ import annotations

from collections.abc import Sequence

from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import TASK, Shop
from jobq.failure_modes.weakened import by
from jobq.protocol.states import AttemptEnd, State
from jobq.protocol.values import AttemptError, FailedAttempt
from jobq.store.postgres import PostgresStore
from jobq.store.sqlite import SqliteStore
from jobq.store.step import Statement

NEW_TASK = "shop.refund"
OLD_CODE, NEW_CODE = (TASK,), (TASK, NEW_TASK)
MAX_ATTEMPTS = 3
TURNS = 3 * MAX_ATTEMPTS
NOT_REGISTERED = AttemptError("KeyError", f"'{NEW_TASK}'", f"KeyError: '{NEW_TASK}'")

ONLY_KNOWN_POSTGRES = "AND ready.task = ANY (%(tasks)s::text[])"
ONLY_KNOWN_SQLITE = "AND task IN (SELECT value FROM json_each(:tasks))"


class _AnyTaskPostgres(PostgresStore):
    """What is missing: the question whether this worker can do it."""

    def _statement(self, template: str, **params: object) -> Statement:
        return super()._statement(template.replace(ONLY_KNOWN_POSTGRES, ""), **params)


class _AnyTaskSqlite(SqliteStore):
    def _statement(self, sql: str, **params: object) -> Statement:
        return super()._statement(sql.replace(ONLY_KNOWN_SQLITE, ""), **params)


def play(shop: Shop) -> Finding:
    """New code enqueues a job of a new task while old workers still run; then come the new ones."""
    refund = shop.enqueue(task=NEW_TASK, max_attempts=MAX_ATTEMPTS)
    charge = shop.enqueue()
    for _ in range(TURNS):
        turn(shop, "old", OLD_CODE)
    midway = shop.job(refund)
    for _ in range(TURNS):
        turn(shop, "new", NEW_CODE)

    end = shop.state(refund)
    return Finding(
        is_harmed=end is not State.DONE,
        detail=f"the new task's job was {midway.state.value} with {midway.attempts} attempts spent "
        f"when the first worker came that has the task; now it is {end.value}",
        seen={
            "midway": midway.state,
            "attempts": midway.attempts,
            "refund": end,
            "charge": shop.state(charge),
            "charged_by": shop.ledger(),
        },
    )


def turn(shop: Shop, worker: str, tasks: Sequence[str]) -> None:
    """Claim what there is, do what this worker's code has, and fail what it has not."""
    for claimed in shop.claim(worker, 10, tasks=tasks):
        if claimed.task not in tasks:
            failure = FailedAttempt(claimed.lease, AttemptEnd.FAILED, NOT_REGISTERED, 0.0)
            shop.database.run(shop.database.store.fail([failure]))
            continue
        effect = shop.effect(claimed.lease, worker)
        effect.charge()
        effect.commit()
        shop.finalize(claimed.lease)
    shop.promote()


def reproduce(shop: Shop) -> Finding:
    """On a queue whose workers claim whatever is next, and then look for the handler."""
    shop.weaken(by(_AnyTaskSqlite if shop.is_sqlite else _AnyTaskPostgres))
    return play(shop)


FM = FailureMode(
    id="FM_021",
    title="an unknown task burns its attempts",
    invariants=("I6", "I7"),
    reproduce=reproduce,
    prevent=play,
)

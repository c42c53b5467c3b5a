"""FM_028: a due job stands before the place where claims begin to look."""

from __future__ import annotations

from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import TASK, Shop
from jobq.failure_modes.transactions import parties_of
from jobq.protocol.cursor import HIDDEN_S, ClaimCursor
from jobq.protocol.values import JobRequest
from jobq.store.step import Step

EARLY = JobRequest(TASK, "{}", "default", 0, 5, None, 0.0)


class _ForwardOnly(ClaimCursor):
    """What is missing: a look back. Jobs come in the order of their ids, it seems."""

    def is_at_head(self, now_s: float) -> bool:
        return now_s == 0.0


def play(shop: Shop, cursor: ClaimCursor | None = None) -> Finding:
    """Three jobs come to stand behind the cursor, and a worker goes on for as long as jobq says."""
    cursor = cursor or ClaimCursor()
    with parties_of(shop) as parties:
        enqueuing = parties.open()
        (late,) = enqueuing.run(shop.database.store.enqueue([EARLY]))
        given_back = shop.enqueue()
        lease = shop.claim_one("B")
        passing = shop.enqueue()
        # The look from the head takes so long that the next one is as far away as it can be.
        assert _claim(shop, cursor, 0.0, HIDDEN_S) == [passing]
        enqueuing.commit()
    shop.release(lease)
    urgent = shop.enqueue(priority=-1)

    soon = _claim(shop, cursor, 1.5 * HIDDEN_S, 1.5 * HIDDEN_S)
    bound_s = 2 * HIDDEN_S
    found = _claim(shop, cursor, bound_s, bound_s)
    waiting = {"committed late": late, "given back": given_back, "of higher priority": urgent}
    hidden = [what for what, job_id in waiting.items() if job_id not in found]
    return Finding(
        is_harmed=bool(hidden),
        detail=f"hidden for good: the job {', the one '.join(hidden)}"
        if hidden
        else f"all three were found {HIDDEN_S:g} s after the last look from the head",
        seen={"soon": soon, "found": found, "expected": [urgent, late, given_back]},
    )


def _claim(shop: Shop, cursor: ClaimCursor, began_s: float, ended_s: float) -> list[int]:
    """Claim as the worker does, at these times; return the jobs."""

    def step() -> Step[list[int]]:
        claimed = yield from shop.database.store.claim(
            worker="A",
            queues=["default"],
            tasks=[TASK],
            limit=10,
            lease_s=60.0,
            since=cursor.since(began_s),
        )
        cursor.advance(claimed, began_s, ended_s)
        return [job.lease.job_id for job in claimed]

    return shop.database.run(step())


def reproduce(shop: Shop) -> Finding:
    """With a cursor that only goes forward."""
    return play(shop, _ForwardOnly())


FM = FailureMode(
    id="FM_028",
    title="a due job hidden behind the claim cursor",
    invariants=("I6",),
    reproduce=reproduce,
    prevent=play,
    not_on_sqlite="claims there have no cursor, since they need none",
)

"""FM_010: a job that kills its worker is retried for ever."""

from __future__ import annotations

from jobq.failure_modes import weakened
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import Shop
from jobq.protocol.values import Recovered
from jobq.store.base import RetryDelay, Store
from jobq.store.step import Step

MAX_ATTEMPTS = 3
ROUNDS = 4 * MAX_ATTEMPTS

# Every claim takes the next token, whatever is thought of the attempt: the tokens are the truth
# about how often the handler was started.
LAST_TOKEN = """
SELECT max(token) FROM (
    SELECT job_id, token FROM jobq.scheduled
    UNION ALL SELECT job_id, token FROM jobq.ready
    UNION ALL SELECT job_id, token FROM jobq.leases
    UNION ALL SELECT job_id, token FROM jobq.commit_records) AS places
WHERE job_id = {job_id}
"""


class CountsFailuresOnly(Store):
    """Who never reported never failed: recovery gives the job back with its attempt unspent.

    So it is where attempts are counted as errors are caught, in the worker. A worker that is
    killed catches nothing.
    """

    def reconcile(self, limit: int, retry_delay: RetryDelay) -> Step[Recovered]:
        expired = [attempt.lease for attempt in (yield from self._lock_expired(limit))]
        yield from self._release(expired)
        return Recovered(retried=tuple(lease.job_id for lease in expired))


weaken = weakened.by(CountsFailuresOnly)


def play(shop: Shop) -> Finding:
    """Whoever claims the job is killed by it, and says nothing more."""
    job_id = shop.enqueue(max_attempts=MAX_ATTEMPTS)
    for _ in range(ROUNDS):
        claimed = shop.claim("A")
        if not claimed:
            break
        shop.recover(claimed[0].lease)

    started = starts_of(shop, job_id)
    state = shop.state(job_id)
    return Finding(
        is_harmed=started > MAX_ATTEMPTS,
        detail=f"{started} workers killed by a job with max_attempts {MAX_ATTEMPTS}; "
        f"it is {state.value}",
        seen={"started": started, "state": state},
    )


def starts_of(shop: Shop, job_id: int) -> int:
    """How often the job was claimed, whatever was counted."""
    ((token,),) = shop.sql(LAST_TOKEN.format(job_id=job_id))
    return int(token)


def reproduce(shop: Shop) -> Finding:
    """On a queue that counts an attempt when its failure is reported."""
    shop.weaken(weaken)
    return play(shop)


FM = FailureMode(
    id="FM_010",
    title="poison job kills its worker for ever",
    invariants=("I6", "I7"),
    reproduce=reproduce,
    prevent=play,
)

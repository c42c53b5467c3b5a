"""FM_012: one claim takes far more jobs than its limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product

from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import LEASE_S, TASK, Shop
from jobq.failure_modes.transactions import OpenTransaction, parties_of
from jobq.failure_modes.weakened import by
from jobq.store import Store
from jobq.store.postgres import EXCHANGE, PROMOTE
from jobq.store.step import Statement, Step

JOBS = 20
LIMIT = 1
SWITCHES = (
    "enable_hashagg",
    "enable_hashjoin",
    "enable_indexscan",
    "enable_material",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_seqscan",
    "enable_sort",
)
"""What the planner can be kept from. The 256 combinations stand for the sizes and the statistics
for which it would leave its usual plan by itself."""

# What everybody writes. Nothing in it says that the sub-select is to be run once, and a plan that
# runs it for every row of the table locks another row each time.
INSTEAD = {
    EXCHANGE: EXCHANGE.replace("ctid = ANY (ARRAY(", "ctid IN (").replace(
        "LIMIT %(limit)s))", "LIMIT %(limit)s)"
    ),
    PROMOTE: PROMOTE.replace("job_id = ANY (ARRAY(", "job_id IN (").replace(
        "SKIP LOCKED))", "SKIP LOCKED)"
    ),
}


class _TakesWhatIsIn:
    """What is missing: the array, which is made once, before the first row is taken."""

    def _statement(self, template: str, **params: object) -> Statement:
        statement: Statement = super()._statement(  # type: ignore[misc]
            INSTEAD.get(template, template), **params
        )
        return statement


def claim(store: Store) -> Step[int]:
    claimed = yield from store.claim(
        worker="A", queues=["default"], tasks=[TASK], limit=LIMIT, lease_s=LEASE_S
    )
    return len(claimed)


def promote(store: Store) -> Step[int]:
    return (yield from store.promote(LIMIT))


STEPS: dict[str, Callable[[Store], Step[int]]] = {"claim": claim, "promote": promote}
"""The steps that take so many rows and no more, each with the answer how many it took."""


def play(shop: Shop) -> Finding:
    """Twenty jobs are due, and one is asked for, under every plan that can be forced."""
    shop.enqueue_many(JOBS)
    scheduled = [shop.enqueue(delay_s=3600.0) for _ in range(JOBS)]
    ids = ", ".join(map(str, scheduled))
    shop.sql(f"UPDATE jobq.scheduled SET run_at = '2000-01-01' WHERE job_id IN ({ids})")
    shop.sql("ANALYZE")
    with parties_of(shop) as parties:
        taking = parties.open()
        facts = {name: _sweep(shop.database.store, step, taking) for name, step in STEPS.items()}
    harms = [_told(name, taken) for name, taken in facts.items() if max(taken) > LIMIT]
    return Finding(
        is_harmed=bool(harms),
        detail="; ".join(harms)
        or f"claim and promote took {LIMIT} job under all {2 ** len(SWITCHES)} plans",
        seen=facts,
    )


def _sweep(
    store: Store,
    step: Callable[[Store], Step[int]],
    taking: OpenTransaction,
) -> Counter[int]:
    """How many jobs the step took, and under how many of the plans."""
    taken: Counter[int] = Counter()
    for positions in product(("on", "off"), repeat=len(SWITCHES)):
        force(taking, dict(zip(SWITCHES, positions, strict=True)))
        taken[taking.run(step(store))] += 1
        taking.rollback()
    return taken


def force(transaction: OpenTransaction, settings: dict[str, str]) -> None:
    """Set the planner's switches until the transaction ends."""
    calls = [f"set_config('{name}', '{value}', true)" for name, value in settings.items()]
    # A plan kept from before would not be made again for another switch. What is switched off is
    # reckoned as so dear that it would be compiled each time.
    calls.append("set_config('plan_cache_mode', 'force_custom_plan', true)")
    calls.append("set_config('jit', 'off', true)")
    transaction.sql(f"SELECT {', '.join(calls)}")


def _told(name: str, taken: Counter[int]) -> str:
    over = sum(plans for jobs, plans in taken.items() if jobs > LIMIT)
    return f"{name} took {max(taken)} jobs for LIMIT {LIMIT} under {over} of {taken.total()} plans"


def reproduce(shop: Shop) -> Finding:
    """On `IN (SELECT ... LIMIT 1 FOR UPDATE SKIP LOCKED)`."""
    shop.weaken(by(_TakesWhatIsIn))
    return play(shop)


FM = FailureMode(
    id="FM_012",
    title="one claim takes more than its limit",
    invariants=("I10",),
    reproduce=reproduce,
    prevent=play,
    not_on_sqlite="it has no row locks, and evaluates a sub-select that names no outer row once",
)

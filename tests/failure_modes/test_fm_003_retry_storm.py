"""FM_003: a slow database is retried until it is down.

For twelve seconds a table hangs. The workers take every job there is, a connection for each. Their
leases expire, because nothing extends them, and every job is taken again while its first attempt
still hangs; those that give up are tried again at once. So forty jobs become two hundred attempts,
the server has no connection left for anybody, the jobs run out of attempts and are dead, and when
the table answers again the attempts that hung are all applied: charged several times, and dead.

jobq's remedies, each bounded by a count here: a worker has so many handlers and no more
(admission), it extends its leases whatever its handlers do, an attempt inside its effect is not
rescued, delays have full jitter, and a budget stretches them when retries outnumber successes.
"""

from __future__ import annotations

import math

from jobq.failure_modes.fm_003_retry_storm import (
    JOBS,
    MAX_ATTEMPTS,
    OUTAGE_TICKS,
    PATIENCE_TICKS,
    SLOTS,
    Eager,
    Remedied,
    play,
    reproduce,
)
from jobq.failure_modes.invariants import violations
from jobq.failure_modes.shop import Shop

CONCURRENCY = int(Remedied.concurrency)


def test_reproduces_a_storm_that_takes_every_connection(server_shop: Shop) -> None:
    storm = reproduce(server_shop).seen

    assert storm["attempts"] == JOBS * MAX_ATTEMPTS, "every attempt that there was"
    assert storm["attempts_in_outage"] == storm["attempts"]
    assert storm["refused_connections"] > 0
    assert storm["most_connections"] == SLOTS > 2 * JOBS, "each job hangs several times over"
    assert storm["dead"] == JOBS, "an outage of seconds used up the jobs"
    assert storm["twice"] >= JOBS, "and each was charged more than once"


def test_prevented_with_bounds_on_every_count(server_shop: Shop) -> None:
    calm = play(server_shop).seen

    assert calm["dead"] == calm["twice"] == calm["refused_connections"] == 0
    assert calm["most_connections"] <= CONCURRENCY
    assert calm["attempts_in_outage"] <= CONCURRENCY * OUTAGE_TICKS / PATIENCE_TICKS
    assert calm["attempts"] <= 1.5 * JOBS
    assert calm["statements_in_outage"] <= 12 * OUTAGE_TICKS, "polling, and little else"
    assert calm["ticks_to_recover"] <= 4 * JOBS / CONCURRENCY
    assert sorted(set(server_shop.ledger())) == ["A"]
    assert not violations(server_shop, is_every_commit_charged=True)


def test_prevented_even_without_admission(server_shop: Shop) -> None:
    """The commit boundary and the delays alone lose and repeat nothing; what admission saves is
    connections."""

    class Unlimited(Remedied):
        concurrency = math.inf

    calm = play(server_shop, Unlimited()).seen

    assert calm["dead"] == calm["twice"] == 0
    assert calm["most_connections"] == JOBS > CONCURRENCY
    assert not violations(server_shop, is_every_commit_charged=True)


def test_prevented_by_the_commit_boundary_alone(server_shop: Shop) -> None:
    """Eager workers on jobq's store: an attempt that hangs in its effect keeps its lease, so there
    is nothing to rescue and nobody to charge a second time."""
    calm = play(server_shop, Eager()).seen

    assert calm["twice"] == calm["refused_connections"] == 0
    assert calm["most_connections"] == JOBS
    assert not violations(server_shop, is_every_commit_charged=True)

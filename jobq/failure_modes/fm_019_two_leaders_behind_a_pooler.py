"""FM_019: a lock that belongs to a session, where sessions are shared."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg

from jobq.database.execute import execute
from jobq.database.open import open_database
from jobq.database.url import conninfo, parse_url
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.fm_020_cap_overshoot_and_double_cron import (
    NIGHTLY,
    REPORT,
    be_due,
    look_then_make,
    make_due,
)
from jobq.failure_modes.grounds import NotHere
from jobq.failure_modes.pooler import client_of as client
from jobq.failure_modes.pooler import is_installed, pooler_to
from jobq.failure_modes.shop import Shop
from jobq.store import schedules

LEADERSHIP = 19
TRY_TO_LEAD = f"SELECT pg_try_advisory_lock({LEADERSHIP})"
STEP_DOWN = f"SELECT pg_advisory_unlock({LEADERSHIP})"
SESSION_LOCKS = """
SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
WHERE locktype = 'advisory' AND datname = current_database()
"""
SERVERS = 4


def leads(session: psycopg.Connection[Any]) -> bool:
    return session.execute(TRY_TO_LEAD).fetchone() == (True,)


def reproduce(shop: Shop) -> Finding:
    """With a leader that is known by its session's lock, and two workers on one pooler's server."""
    _needs_a_pooler()
    shop.database.run(schedules.declare(shop.database.store.portable, [NIGHTLY]))
    be_due(shop)
    with pooler_to(shop.database.url, servers=1) as url:
        with closing(client(url)) as a, closing(client(url)) as b:
            leaders = [name for name, session in (("A", a), ("B", b)) if leads(session)]
            if leaders == ["A", "B"]:  # each looks after what nobody else does, as it thinks
                execute(
                    look_then_make(shop, "A", lambda: execute(look_then_make(shop, "B", None), b)),
                    a,
                )
        # Both are gone. The session that has the lock is the pooler's, and it stays.
        with closing(psycopg.connect(conninfo(shop.database.url), autocommit=True)) as successor:
            can_be_succeeded = leads(successor)
    return told(shop, leaders, can_be_succeeded=can_be_succeeded)


def prevent(shop: Shop) -> Finding:
    """Two of jobq's workers behind the same pooler, at the same moment."""
    _needs_a_pooler()
    shop.database.run(schedules.declare(shop.database.store.portable, [NIGHTLY]))
    be_due(shop)
    with pooler_to(shop.database.url, servers=SERVERS) as url:
        a, b = (open_database(parse_url(url), schema=shop.schema, is_pooled=True) for _ in range(2))
        with closing(a), closing(b):
            a.run(make_due(shop, "A", lambda: b.run(make_due(shop, "B", None))))
    ((locks,),) = shop.sql(SESSION_LOCKS)
    return told(shop, [], can_be_succeeded=locks == 0)


def told(shop: Shop, leaders: list[str], *, can_be_succeeded: bool) -> Finding:
    ((jobs,),) = shop.sql(f"SELECT count(*) FROM jobq.jobs WHERE task = '{REPORT}'")
    who = f"{' and '.join(leaders)} lead" if leaders else "nobody leads"
    return Finding(
        is_harmed=jobs != 1 or not can_be_succeeded,
        detail=f"{who}; jobs of one tick: {jobs}; "
        + ("nothing is left on the server" if can_be_succeeded else "gone, they lead for ever"),
        seen={"leaders": leaders, "jobs": jobs, "can_be_succeeded": can_be_succeeded},
    )


def _needs_a_pooler() -> None:
    if not is_installed():
        raise NotHere("needs pgbouncer on the PATH (Debian: apt install pgbouncer)")


FM = FailureMode(
    id="FM_019",
    title="two leaders behind a pooler",
    invariants=("I6", "I10"),
    reproduce=reproduce,
    prevent=prevent,
    not_on_sqlite="there are no sessions on a server, and nothing to pool them with",
)

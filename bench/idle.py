"""What an idle worker takes: connections, transactions, CPU and memory.

Measured: a `jobq worker` process, as it comes, that has two tasks and nothing to do, for 20 seconds
per repetition, all in a row; its database's sessions and transactions as the server counts them,
its CPU time and resident memory as the system does. Beside: a migrated database of the same server
that has no worker, over the same seconds.

Fair because both databases have the same tables, and the one who looks is connected to a third.
Autovacuum visits only databases in which something happens: its transactions there, some 0.05 a
second, are counted as the worker's.
"""

from __future__ import annotations

import time

import psycopg

from bench.harness import Figure, Place
from bench.processes import cpu_s, resident_mb, worker_process
from jobq.database.url import parse_url

SETTLE_S, WATCHED_S, LOOK_S = 5.0, 20.0, 0.25
TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"
CONNECTIONS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'
"""


def run(place: Place, repeat: int) -> list[Figure]:
    with (
        place.database() as url,
        place.database() as quiet_url,
        place.database() as own_url,
        psycopg.connect(own_url, autocommit=True) as watcher,
        worker_process(url) as pid,
    ):
        name, quiet_name = (parse_url(each).database for each in (url, quiet_url))

        def count(query: str, database: str | None) -> int:
            return int(watcher.execute(query, (database,)).fetchall()[0][0])

        time.sleep(SETTLE_S)
        began_s, cpu_began_s = time.monotonic(), cpu_s(pid)
        before, quiet_before = count(TRANSACTIONS, name), count(TRANSACTIONS, quiet_name)
        connections = 0
        while time.monotonic() < began_s + WATCHED_S * repeat:
            connections = max(connections, count(CONNECTIONS, name))
            time.sleep(LOOK_S)
        after, quiet_after = count(TRANSACTIONS, name), count(TRANSACTIONS, quiet_name)
        took_s, cpu_took_s = time.monotonic() - began_s, cpu_s(pid) - cpu_began_s
        memory_mb = resident_mb(pid)
    rate, quiet_rate = (after - before) / took_s, (quiet_after - quiet_before) / took_s
    return [
        Figure("idle worker, connections", connections, "connections"),
        Figure("idle worker, transactions", rate, "per second", "no worker", quiet_rate),
        Figure("idle worker, CPU", 1e3 * cpu_took_s / took_s, "ms per second"),
        Figure("idle worker, resident memory", memory_mb, "MB"),
    ]

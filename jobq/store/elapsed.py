"""Time that is made to pass: the rows get older, since nobody can set the database's clock.

For tests. Nothing else may change what these statements change.
"""

from __future__ import annotations

from sqlalchemy import literal, update

from jobq.models import Instant
from jobq.protocol.values import Lease
from jobq.store.portable import Portable, now, seconds_later
from jobq.store.step import Step

OF_THE_CLOCK = frozenset({"schedules", "ticks"})
"""Their times are those of cron expressions, and go by the clock on the wall."""


def elapse(portable: Portable, seconds: float) -> Step[None]:
    """Make every time in jobq's tables so much earlier, but those of periodic schedules."""
    for name, table in vars(portable.tables).items():
        instants = [column for column in table.c if isinstance(column.type, Instant)]
        if instants and name not in OF_THE_CLOCK:
            earlier = {each.name: seconds_later(each, literal(-seconds)) for each in instants}
            yield from portable.run(
                update(table).where(table.c.shard == portable.shard).values(earlier)
            )


def expire(portable: Portable, lease: Lease) -> Step[None]:
    """Have the lease be over since a second ago."""
    leases = portable.tables.leases
    yield from portable.run(
        update(leases)
        .where(
            leases.c.shard == portable.shard,
            leases.c.job_id == lease.job_id,
            leases.c.token == lease.token,
        )
        .values(lease_expires_at=seconds_later(now(), literal(-1.0)))
    )

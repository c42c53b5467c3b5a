"""The places that few jobs come to: under limits, behind other jobs, before a person."""

from __future__ import annotations

from sqlalchemy import literal, select, union_all

from jobq.store.ambiguous import unpark
from jobq.store.flow import leave_waiting
from jobq.store.limits import leave_line
from jobq.store.portable import Portable
from jobq.store.step import Step

WAYS_OUT = {"throttled": leave_line, "waiting": leave_waiting, "ambiguous": unpark}


def leave_side_place(portable: Portable, job_id: int) -> Step[int | None]:
    """Take the job out of one of them; return its last lease token, None when it is in none.

    One question for all, since most jobs are in none; what is found may have moved by then.
    """
    tables = vars(portable.tables)
    rows = yield from portable.run(
        union_all(
            *(
                select(literal(name).label("place")).where(
                    tables[name].c.shard == portable.shard, tables[name].c.job_id == job_id
                )
                for name in WAYS_OUT
            )
        )
    )
    for (place,) in rows:
        token = yield from WAYS_OUT[place](portable, job_id)
        if token is not None:
            return token
    return None

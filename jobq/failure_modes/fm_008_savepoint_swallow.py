"""FM_008: a handler swallows the duplicate's error inside a savepoint and commits its effect."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import create_engine, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from jobq.errors import Refusal
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import Shop
from jobq.job import Fate, Job
from jobq.models import tables_for
from jobq.protocol.values import ClaimedJob

Handler = Callable[[Shop, ClaimedJob, str], Refusal | None]
"""An attempt: charges, swallows whatever error it can, and is refused or takes itself for done."""


def record_first(shop: Shop, claimed: ClaimedJob, worker: str) -> Refusal | None:
    """On jobq. As careless as the others, and a refusal is no Exception that it could catch."""
    fate = Fate()
    job = Job(claimed, shop.database, fate)
    try:
        try:
            with job.commit() as db:
                charge(db, claimed, worker)
        except Exception:  # noqa: BLE001, S110 - the careless handler
            pass
    except Refusal:
        pass  # this is the worker: the attempt ends here
    return fate.refusal


def record_last(shop: Shop, claimed: ClaimedJob, worker: str) -> Refusal | None:
    """What is missing: the order. The record comes after the effect and is the handler's own
    business, in a savepoint, since a failed statement would spoil the transaction on PostgreSQL.
    Who writes it so takes the unique violation for good news: somebody has recorded the job."""
    with own_session(shop) as db, db.begin():
        charge(db, claimed, worker)
        try:
            with db.begin_nested():
                db.execute(record(shop, claimed))
        except IntegrityError:
            pass
    return None


def record_unchecked(shop: Shop, claimed: ClaimedJob, worker: str) -> Refusal | None:
    """The same mistake without an error to swallow: nobody asks whether a row was written."""
    with own_session(shop) as db, db.begin():
        charge(db, claimed, worker)
        db.execute(record(shop, claimed).on_conflict_do_nothing())
    return None


def own_session(shop: Shop) -> Session:
    return Session(create_engine(shop.database.url, poolclass=NullPool))


def record(shop: Shop, claimed: ClaimedJob) -> postgresql.Insert | sqlite.Insert:
    backend = shop.database.url.get_backend_name()
    table = tables_for(backend, shop.schema)["commit_records"]
    insert = sqlite.insert(table) if shop.is_sqlite else postgresql.insert(table)
    return insert.values(
        shard=shop.database.store.shard,
        job_id=claimed.lease.job_id,
        outcome="committed",
        token=claimed.lease.token,
        recorded_at=datetime.now(UTC),
    )


def charge(db: Session, claimed: ClaimedJob, worker: str) -> None:
    db.execute(text(f"INSERT INTO ledger VALUES ({claimed.lease.job_id}, '{worker}')"))


def play(shop: Shop, handler: Handler = record_first) -> Finding:
    """A is paused past its lease, B charges, and A goes on: a duplicate, and careless."""
    job_id = shop.enqueue()
    (a,) = shop.claim("A")
    shop.recover(a.lease)
    (b,) = shop.claim("B")
    handler(shop, b, "B")
    shop.finalize(b.lease)

    refused = handler(shop, a, "A")

    charged_by = shop.ledger()
    refusal = type(refused).__name__ if refused else None
    return Finding(
        is_harmed=len(charged_by) > 1,
        detail=f"one order, charged by {' and '.join(charged_by)}"
        + (f"; A was refused ({refusal}) past its except clause" if refusal else ""),
        seen={
            "charged_by": charged_by,
            "refusal": refusal,
            "records": len(shop.records()),
            "state": shop.state(job_id),
        },
    )


def reproduce(shop: Shop) -> Finding:
    """With the record last, in a savepoint of the handler's own."""
    return play(shop, record_last)


FM = FailureMode(
    id="FM_008",
    title="savepoint swallow",
    invariants=("I2",),
    reproduce=reproduce,
    prevent=play,
)

"""FM_034: a lock that looks harmless stops every claim, or hides a job from them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import psycopg
from alembic import command

from jobq import schema
from jobq.database.url import conninfo
from jobq.errors import DatabaseUnavailable
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import LEASE_S, TASK, Shop
from jobq.failure_modes.transactions import WAIT_S, Parties, parties_of
from jobq.revisions import migrations_path, revisions

PATIENCE_S = 3.0
NEXT = "fm_034"
NEXT_REVISION = f'''
"""A revision as the next version of jobq might have it: a column of a table that claims scan."""

from alembic import context, op

revision = "{NEXT}"
down_revision = "{revisions()[-1]}"
branch_labels = depends_on = None


def upgrade():
    schema = context.config.attributes["schema"]
    op.execute(f'ALTER TABLE "{{schema}}".ready ADD COLUMN {NEXT} int')


def downgrade():
    schema = context.config.attributes["schema"]
    op.execute(f'ALTER TABLE "{{schema}}".ready DROP COLUMN {NEXT}')
'''
HAS_COLUMN = f"SELECT count(*) FROM pg_attribute WHERE attname = '{NEXT}'"
NOTES = """
CREATE TABLE notes (shard smallint, job_id bigint,
                    FOREIGN KEY (shard, job_id) REFERENCES jobq.jobs (shard, id))
"""
CLAIM_FROM_JOBS = "SELECT id FROM jobq.jobs WHERE id = {job_id} FOR UPDATE SKIP LOCKED"

Migrate = Callable[[Shop], str]
"""Adds the column; returns what it was told."""
ClaimOne = Callable[[Shop, int], bool]
"""Tries to claim the job; returns whether it got it."""


def alter_table(shop: Shop) -> str:
    """As it is typed into psql."""
    with psycopg.connect(conninfo(shop.database.url), autocommit=True) as connection:
        connection.execute(f"ALTER TABLE {shop.schema}.ready ADD COLUMN {NEXT} int".encode())
    return "done"


def upgrade(shop: Shop) -> str:
    """As `jobq upgrade` would, if this version had one revision more."""
    with tempfile.TemporaryDirectory(prefix="jobq-fm-034-") as folder:
        Path(folder, f"{NEXT}_column.py").write_text(NEXT_REVISION)
        config = schema.alembic_config(shop.url, shop.schema)
        locations = (str(migrations_path() / "versions"), folder)
        config.set_main_option("version_locations", os.pathsep.join(locations))
        try:
            schema.migrate(config, lambda: command.upgrade(config, "head"))
        except DatabaseUnavailable as refusal:
            return str(refusal)
    return "done"


def claim_from_jobs(shop: Shop, job_id: int) -> bool:
    """Where the state is a column of the jobs row, this is the row to lock."""
    return bool(shop.sql(CLAIM_FROM_JOBS.format(job_id=job_id)))


def claim(shop: Shop, job_id: int) -> bool:
    return [claimed.lease.job_id for claimed in shop.claim("B")] == [job_id]


def play(
    shop: Shop,
    migrate: Migrate = upgrade,
    claim_one: ClaimOne = claim,
    patience_s: float = WAIT_S,
) -> Finding:
    """A reader stays in its transaction, and a migration comes; a note on a job stays open."""
    seen = {**_behind_a_reader(shop, migrate, patience_s), **_beside_a_note(shop, claim_one)}
    harms = [
        told
        for name, told in (
            ("claimed_beside_reader", "an idle reader and a migration stopped every claim"),
            ("claimed_beside_note", "a row that refers to a job hid it from claims"),
        )
        if not seen[name]
    ]
    return Finding(
        is_harmed=bool(harms),
        detail="; ".join(harms)
        or "claims went on beside an idle reader, and the migration said who was in its way; a "
        "row that refers to a job hid nothing",
        seen=seen,
    )


def _behind_a_reader(shop: Shop, migrate: Migrate, patience_s: float) -> dict[str, Any]:
    shop.enqueue()
    with parties_of(shop) as parties, ThreadPoolExecutor(1) as pool:
        reader = parties.open()
        reader.sql(f"SELECT count(*) FROM {shop.schema}.ready")  # and no COMMIT
        migrating = pool.submit(migrate, shop)
        parties.wait_for_blocked_by(reader.pid)
        claiming = _start_claim(shop, parties)
        wait([claiming], patience_s)
        has_claimed = claiming.done()
        if has_claimed:  # the reader stays until the migration has given up
            wait([migrating], patience_s)
        reader.rollback()
        claiming.result(WAIT_S)
        told = migrating.result(WAIT_S)
    return {"claimed_beside_reader": has_claimed, "told": told, "pid_of_reader": reader.pid}


def _start_claim(shop: Shop, parties: Parties) -> Future[Any]:
    claiming = parties.open()

    def claim_and_commit() -> None:
        store = shop.database.store
        started = claiming.start(
            store.claim(worker="A", queues=["default"], tasks=[TASK], limit=1, lease_s=LEASE_S)
        )
        started.result(WAIT_S)
        claiming.commit()

    with_commit = ThreadPoolExecutor(1)
    started = with_commit.submit(claim_and_commit)
    with_commit.shutdown(wait=False)
    return started


def _beside_a_note(shop: Shop, claim_one: ClaimOne) -> dict[str, Any]:
    shop.sql(NOTES)
    job_id = shop.enqueue()
    with parties_of(shop) as parties:
        writing = parties.open()
        writing.sql(f"INSERT INTO notes VALUES (0, {job_id})")  # and no COMMIT
        return {"claimed_beside_note": claim_one(shop, job_id)}


def reproduce(shop: Shop) -> Finding:
    """On ALTER TABLE as it is, and a claim that locks the row others refer to."""
    return play(shop, alter_table, claim_from_jobs, PATIENCE_S)


FM = FailureMode(
    id="FM_034",
    title="lock-mode stalls",
    invariants=("liveness",),
    reproduce=reproduce,
    prevent=play,
    not_on_sqlite="readers and writers of one file do not wait for each other, and a migration is "
    "one more writer, which waits for its turn",
)

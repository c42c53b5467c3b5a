"""The places a job can be in, its commit record, and its history.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "jobs",
    "scheduled",
    "ready",
    "leases",
    "commit_records",
    "attempts",
    "refusals",
    "workers",
    "throttled",
    "waiting",
    "dependencies",
    "limits",
    "limit_keys",
    "pauses",
    "slots",
    "steps",
    "progress",
    "deadlines",
    "ambiguous",
    "schedules",
    "ticks",
    "unique_keys",
    "audit",
)
CHURN = {
    "postgresql_with": {
        "autovacuum_vacuum_scale_factor": "0",
        "autovacuum_vacuum_threshold": "10000",
    }
}


def on_sqlite() -> bool:
    return op.get_context().dialect.name == "sqlite"


def schema() -> str | None:
    return None if on_sqlite() else context.config.attributes["schema"]


def named(table: str) -> str:
    return f"jobq_{table}" if on_sqlite() else table


def create_table(
    name: str, *parts: sa.schema.SchemaItem, key: Sequence[str], **options: Any
) -> None:
    table = named(name)
    primary_key = sa.PrimaryKeyConstraint(*key, name=f"{table}_pkey")
    op.create_table(table, *parts, primary_key, schema=schema(), **options)


def column(name: str, type_: sa.types.TypeEngine[Any], *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=null, autoincrement=False)


def shard() -> sa.Column[Any]:
    return sa.Column("shard", sa.SmallInteger(), server_default=sa.text("0"), nullable=False)


def check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"{named(table)}_{name}_check"))


def upgrade() -> None:
    text, small, big = sa.Text(), sa.SmallInteger(), sa.BigInteger()
    instant = sa.BigInteger() if on_sqlite() else sa.DateTime(timezone=True)
    job_id = column("id", big) if on_sqlite() else sa.Column("id", big, sa.Identity(always=True))

    create_table(
        "jobs",
        job_id,
        shard(),
        column("queue", text),
        column("task", text),
        column("args", text if on_sqlite() else sa.JSON()),
        column("priority", small),
        column("max_attempts", small),
        column("idempotency_key", sa.String(36) if on_sqlite() else sa.Uuid()),
        column("created_at", instant),
        column("line", text, null=True),
        column("headers", text, null=True),
        check("jobs", "max_attempts", "max_attempts >= 1"),
        key=("id", "shard"),
    )
    create_table(
        "scheduled",
        column("job_id", big),
        shard(),
        column("run_at", instant),
        column("attempts", small),
        column("token", big),
        key=("job_id", "shard"),
    )
    create_table(
        "ready",
        shard(),
        column("queue", text),
        column("priority", small),
        column("due_at", instant),
        column("job_id", big),
        column("task", text),
        column("attempts", small),
        column("token", big),
        key=("shard", "queue", "priority", "due_at", "job_id"),
        **CHURN,
    )
    create_table(
        "leases",
        column("job_id", big),
        shard(),
        column("token", big),
        column("attempt", small),
        column("worker", text),
        column("due_at", instant),
        column("acquired_at", instant),
        column("lease_expires_at", instant),
        column("begun_as", text, null=True),
        key=("job_id", "shard"),
        **CHURN,
    )
    create_table(
        "commit_records",
        column("job_id", big),
        shard(),
        column("outcome", text),
        column("token", big),
        column("recorded_at", instant),
        column("result", text, null=True),
        column("worker", text, null=True),
        column("due_at", instant, null=True),
        column("acquired_at", instant, null=True),
        check("commit_records", "outcome", "outcome IN ('committed', 'dead', 'cancelled')"),
        key=("job_id", "shard"),
    )
    create_table(
        "attempts",
        column("job_id", big),
        shard(),
        column("token", big),
        column("attempt", small),
        column("worker", text),
        column("started_at", instant),
        column("ended_at", instant),
        column("outcome", text),
        column("error_type", text, null=True),
        column("error_message", text, null=True),
        column("traceback", text, null=True),
        column("lease_expires_at", instant, null=True),
        check(
            "attempts",
            "outcome",
            "outcome IN ('failed', 'interrupted', 'expired', 'snoozed', 'healed', 'revived')",
        ),
        key=("job_id", "shard", "token"),
    )
    create_table(
        "refusals",
        column("job_id", big),
        shard(),
        column("token", big),
        column("stage", text),
        column("worker", text),
        column("reason", text),
        column("refused_at", instant),
        key=("job_id", "shard", "token", "stage"),
    )
    create_table(
        "workers",
        shard(),
        column("id", text),
        column("started_at", instant),
        column("seen_at", instant),
        column("stopped_at", instant, null=True),
        column("about", text, null=True),
        key=("shard", "id"),
    )
    create_table(
        "throttled",
        column("job_id", big),
        shard(),
        column("line", text),
        column("priority", small),
        column("due_at", instant),
        column("task", text),
        column("attempts", small),
        column("token", big),
        key=("job_id", "shard"),
        **CHURN,
    )
    create_table(
        "waiting",
        column("job_id", big),
        shard(),
        column("runs_when", text),
        column("run_at", instant, null=True),
        column("delay_s", sa.Double()),
        column("token", big),
        key=("job_id", "shard"),
    )
    create_table(
        "dependencies",
        column("needs_job_id", big),
        shard(),
        column("job_id", big),
        key=("needs_job_id", "shard", "job_id"),
    )
    create_table(
        "limits",
        shard(),
        column("name", text),
        column("concurrency", sa.Integer(), null=True),
        column("per_second", sa.Double(), null=True),
        column("most_tokens", sa.Integer(), null=True),
        key=("shard", "name"),
    )
    create_table(
        "limit_keys",
        shard(),
        column("key", text),
        column("tokens", sa.Double(), null=True),
        column("counted_at", instant),
        key=("shard", "key"),
    )
    create_table(
        "pauses",
        shard(),
        column("queue", text),
        column("paused_at", instant),
        column("resumes_at", instant, null=True),
        key=("shard", "queue"),
    )
    create_table(
        "slots",
        shard(),
        column("key", text),
        column("job_id", big),
        column("token", big),
        key=("shard", "key", "job_id"),
    )
    create_table(
        "steps",
        column("job_id", big),
        shard(),
        column("name", text),
        column("token", big),
        column("result", text),
        column("recorded_at", instant),
        key=("job_id", "shard", "name"),
    )
    create_table(
        "progress",
        column("job_id", big),
        shard(),
        column("attempt", small),
        column("fraction", sa.Double(), null=True),
        column("note", text, null=True),
        column("reported_at", instant),
        key=("job_id", "shard"),
    )
    create_table(
        "deadlines",
        column("job_id", big),
        shard(),
        column("deadline_at", instant),
        key=("job_id", "shard"),
    )
    create_table(
        "ambiguous",
        column("job_id", big),
        shard(),
        column("token", big),
        column("attempt", small),
        column("parked_at", instant),
        key=("job_id", "shard"),
    )
    create_table(
        "schedules",
        shard(),
        column("name", text),
        column("cron", text),
        column("timezone", text),
        column("missed", text),
        column("task", text),
        column("args", text),
        column("queue", text),
        column("priority", small),
        column("max_attempts", small),
        column("line", text, null=True),
        column("next_tick_at", instant, null=True),
        column("paused_at", instant, null=True),
        column("declared", text, null=True),
        key=("shard", "name"),
    )
    create_table(
        "ticks",
        shard(),
        column("schedule", text),
        column("tick_at", instant),
        column("job_id", big),
        key=("shard", "schedule", "tick_at"),
    )
    create_table(
        "unique_keys",
        shard(),
        column("key", text),
        column("job_id", big),
        key=("shard", "key"),
    )
    create_table(
        "audit",
        column("id", text),
        shard(),
        column("done_at", instant),
        column("actor", text),
        column("action", text),
        column("subject", text),
        column("details", text, null=True),
        key=("id", "shard"),
    )
    if on_sqlite():
        create_table("job_sequence", shard(), column("last_id", big), key=("shard",))
    else:
        create_table(
            "idle_workers",
            shard(),
            column("worker", text),
            column("queues", postgresql.ARRAY(text), null=True),
            column("since", instant),
            key=("shard", "worker"),
            prefixes=["UNLOGGED"],
        )
    for name, table, columns in (
        ("jobq_scheduled_run_at_idx", "scheduled", ["run_at"]),
        ("jobq_leases_expiry_idx", "leases", ["lease_expires_at"]),
        ("jobq_unique_keys_job_idx", "unique_keys", ["job_id"]),
        ("jobq_deadlines_idx", "deadlines", ["deadline_at"]),
        ("jobq_audit_idx", "audit", ["done_at"]),
        ("jobq_dependencies_job_idx", "dependencies", ["job_id"]),
        ("jobq_throttled_line_idx", "throttled", ["line", "priority", "due_at", "job_id"]),
    ):
        op.create_index(name, named(table), columns, schema=schema())
    is_dead = sa.text("outcome = 'dead'")
    op.create_index(
        "jobq_dead_idx",
        named("commit_records"),
        ["job_id"],
        schema=schema(),
        postgresql_where=is_dead,
        sqlite_where=is_dead,
    )
    if not on_sqlite():
        for name, table, recent in (
            ("jobq_jobs_created_brin", "jobs", "created_at"),
            ("jobq_commit_records_brin", "commit_records", "recorded_at"),
        ):
            op.create_index(name, table, [recent], schema=schema(), postgresql_using="brin")


def downgrade() -> None:
    if on_sqlite():
        op.drop_table(named("job_sequence"))
    else:
        op.drop_table("idle_workers", schema=schema())
    for table in reversed(TABLES):
        op.drop_table(named(table), schema=schema())

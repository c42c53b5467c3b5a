"""Least-privilege roles on PostgreSQL: three groups, and what each may do to each table.

The roles are groups without login, named after the schema (`jobq_enqueue`, `jobq_worker`,
`jobq_read`); a service's own login roles are made members of them. What is granted is written here,
table by table, and nowhere else: the same script is run by `jobq roles grant` and printed by
`jobq roles sql`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg
from psycopg import errors
from sqlalchemy import Table
from sqlalchemy.engine import URL

from jobq.database.open import check_schema_name, open_database
from jobq.database.refused import not_permitted
from jobq.database.url import backend_of, conninfo, parse_url
from jobq.errors import DatabaseUnavailable, InvalidOption, UnsupportedDatabase
from jobq.models import DEFAULT_SCHEMA, tables_for
from jobq.revisions import MIGRATION_LOCK

REVISION_TABLE = "alembic_version"

# What carries arguments, results, or words that an exception made of them. `line` has the values
# that a limit counts by; those of unique jobs are in their keys, which an enqueue has to read.
HIDDEN = frozenset(
    {
        *("args", "line", "headers", "result", "error_type", "error_message", "traceback", "note"),
        "declared",
    }
)
_READ = "SELECT (shown)"
# PostgreSQL asks for UPDATE on some column of a row that is locked, whatever the lock is for. Jobs
# are never updated, and when one says that it was enqueued matters least.
_LOCK_JOBS = "UPDATE (created_at)"

# An enqueue only adds. Where it looks before it adds (for the place of a job, the holder of a
# unique key), it may read what is not hidden.
ENQUEUE = {
    "jobs": f"INSERT, {_READ}, {_LOCK_JOBS}",
    "ready": f"INSERT, {_READ}",
    "scheduled": f"INSERT, {_READ}",
    "throttled": f"INSERT, {_READ}",
    "waiting": f"INSERT, {_READ}",
    "dependencies": "INSERT",
    "deadlines": "INSERT",
    "unique_keys": "INSERT, SELECT, UPDATE (key, job_id)",
    "leases": _READ,
    "commit_records": _READ,
    "attempts": _READ,
    "ambiguous": _READ,
    "idle_workers": "SELECT",
    REVISION_TABLE: "SELECT",
}

# A worker moves jobs between all places, prunes, and does what operators ask for. History is
# added and pruned, never rewritten.
WORKER_DEFAULT = "SELECT, INSERT, UPDATE, DELETE"
WORKER = {
    "jobs": f"SELECT, INSERT, DELETE, {_LOCK_JOBS}",
    "attempts": "SELECT, INSERT, DELETE",
    "refusals": "SELECT, INSERT, DELETE",
    "steps": "SELECT, INSERT, DELETE",
    "ticks": "SELECT, INSERT, DELETE",
    "audit": "SELECT, INSERT",
    REVISION_TABLE: "SELECT",
}


@dataclass(frozen=True, slots=True)
class Roles:
    """The three roles of a prefix. Raises InvalidOption."""

    prefix: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,54}", self.prefix):
            raise InvalidOption(
                f"prefix {self.prefix!r}: use lower-case letters, digits and underscores, at most "
                "55: roles are named after it"
            )
        if self.prefix.startswith("pg_"):
            raise InvalidOption(f"prefix {self.prefix!r}: PostgreSQL keeps pg_ for its own roles")

    @property
    def enqueue(self) -> str:
        return f"{self.prefix}_enqueue"

    @property
    def worker(self) -> str:
        return f"{self.prefix}_worker"

    @property
    def read(self) -> str:
        return f"{self.prefix}_read"

    @property
    def names(self) -> tuple[str, str, str]:
        return (self.enqueue, self.worker, self.read)


def grant_sql(schema: str = DEFAULT_SCHEMA, prefix: str | None = None) -> str:
    """Return the script that makes the roles, where they are missing, and gives each what it may
    do in `schema`, and no more. To be run in one transaction; may be repeated.

    `prefix`: what their names begin with; the schema's name when not given. Raises InvalidOption.
    """
    roles = _roles(schema, prefix)
    lines = [_CREATE.format(role=role) for role in roles.names]
    lines += [_clear(schema, role) for role in roles.names]
    lines += [f'GRANT USAGE ON SCHEMA "{schema}" TO {_list(roles.names)};']
    for role in (roles.enqueue, roles.worker):
        lines.append(f'GRANT USAGE ON SEQUENCE "{schema}".jobs_id_seq TO {role};')
    for role in roles.names:
        wanted = "CONNECT" if role == roles.read else "CONNECT, TEMPORARY"  # for COPY
        for privilege in wanted.split(", "):
            lines.append(_ON_DATABASE.format(role=role, privilege=privilege))
    tables: dict[str, Table | None] = {**tables_for("postgresql", schema), REVISION_TABLE: None}
    for name, table in tables.items():
        granted = {
            roles.enqueue: ENQUEUE.get(name),
            roles.worker: WORKER.get(name, WORKER_DEFAULT),
            roles.read: "SELECT",
        }
        for role, privileges in granted.items():
            if privileges is not None:
                shown = _shown(table) if table is not None else ""
                told = privileges.replace("(shown)", f"({shown})")
                lines.append(f'GRANT {told} ON "{schema}".{name} TO {role};')
    return "\n".join(lines) + "\n"


def revoke_sql(schema: str = DEFAULT_SCHEMA, prefix: str | None = None) -> str:
    """Return the script that takes everything in the schema from the roles again, and removes
    those that hold nothing in another database. May be repeated. Raises InvalidOption."""
    roles = _roles(schema, prefix)
    return "\n".join(_REMOVE.format(role=role, schema=schema) for role in roles.names) + "\n"


def grant_roles(
    url: str | URL | None = None, *, schema: str = DEFAULT_SCHEMA, prefix: str | None = None
) -> Roles:
    """Make the roles and grant them what they need, in one transaction; return them.

    For the owner of jobq's tables, who may create roles or finds them there. Run it again after
    each upgrade. Raises InvalidOption, UnsupportedDatabase (SQLite has no roles), NotMigrated,
    NotPermitted or DatabaseUnavailable.
    """
    parsed = _postgres(url)
    script = grant_sql(schema, prefix)
    open_database(parsed, schema=schema).check()
    _run(parsed, script)
    return _roles(schema, prefix)


def revoke_roles(
    url: str | URL | None = None, *, schema: str = DEFAULT_SCHEMA, prefix: str | None = None
) -> list[str]:
    """Take everything from the roles again and remove them; return those that stay, because they
    hold something in another database. Raises as `grant_roles` does."""
    parsed = _postgres(url)
    roles = _roles(schema, prefix)
    return _run(
        parsed,
        revoke_sql(schema, prefix),
        "SELECT rolname FROM pg_roles WHERE rolname = ANY (%s) ORDER BY rolname",
        list(roles.names),
    )


def _roles(schema: str, prefix: str | None) -> Roles:
    check_schema_name(schema)
    return Roles(schema if prefix is None else prefix)


def _postgres(url: str | URL | None) -> URL:
    parsed = parse_url(url)
    if backend_of(parsed) == "sqlite":
        raise UnsupportedDatabase(
            f"{parsed!r}: SQLite has no roles: whoever may write the file may do everything; "
            "protect it by the file's own permissions"
        )
    return parsed


def _run(url: URL, script: str, question: str = "", names: list[str] | None = None) -> list[str]:
    try:
        with psycopg.connect(conninfo(url)) as connection:
            # Not beside a migration, nor beside another of these.
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATION_LOCK])
            connection.execute(script.encode())
            rows = connection.execute(question.encode(), [names]).fetchall() if question else []
            return [name for (name,) in rows]
    except errors.InsufficientPrivilege as error:
        raise not_permitted(
            f"{url!r}", f"{error.diag.message_primary}; roles are granted by the tables' owner"
        ) from error
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"{url!r}: {str(error).strip()}") from error


def _shown(table: Table) -> str:
    return ", ".join(column.name for column in table.columns if column.name not in HIDDEN)


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def _clear(schema: str, role: str) -> str:
    return (
        f'REVOKE ALL ON ALL TABLES IN SCHEMA "{schema}" FROM {role};\n'
        f'REVOKE ALL ON ALL SEQUENCES IN SCHEMA "{schema}" FROM {role};'
    )


# CREATE ROLE asks for the right to, even when the role is there; and another database of the server
# may be making it this moment.
_CREATE = """DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
        CREATE ROLE {role} NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;"""

# Everybody has these unless the database's owner took them away, who alone may give them.
_ON_DATABASE = """DO $$ BEGIN
    IF NOT has_database_privilege('{role}', current_database(), '{privilege}') THEN
        EXECUTE format('GRANT {privilege} ON DATABASE %I TO {role}', current_database());
    END IF;
END $$;"""

# Not DROP OWNED, which would drop tables too if the role were given any.
_REMOVE = """DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
        IF EXISTS (SELECT FROM pg_namespace WHERE nspname = '{schema}') THEN
            REVOKE ALL ON ALL TABLES IN SCHEMA "{schema}" FROM {role};
            REVOKE ALL ON ALL SEQUENCES IN SCHEMA "{schema}" FROM {role};
            REVOKE ALL ON SCHEMA "{schema}" FROM {role};
        END IF;
        EXECUTE format('REVOKE ALL ON DATABASE %I FROM {role}', current_database());
        BEGIN
            DROP ROLE {role};
        EXCEPTION WHEN dependent_objects_still_exist THEN
            RAISE NOTICE 'role {role} stays: it holds privileges elsewhere';
        END;
    END IF;
END $$;"""

__all__ = [
    "Roles",
    "grant_roles",
    "grant_sql",
    "revoke_roles",
    "revoke_sql",
]

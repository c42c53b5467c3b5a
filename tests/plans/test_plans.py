"""Every hot statement reads by the right index, in tables of any age, by plans of any age.

Counts of rows are asserted, never times: a scan by an index that is right in name alone (all of a
shard, filtered) visits the whole table.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from enum import Enum
from functools import cache
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from jobq.database.postgres import PostgresDatabase
from jobq.database.url import parse_url
from jobq.models import DEFAULT_SCHEMA
from jobq.store import postgres
from tests.conftest import Databases, url_of
from tests.plans import tables
from tests.plans.plan import Prepared, problems, scans
from tests.plans.statements import EXCUSED, STATEMENTS, Hot, Session

SLACK = 3
"""A table may be visited more than once: to lock, to decide, to delete."""


class State(Enum):
    FRESH = "fresh"
    """Loaded a moment ago; the server knows nothing of what is in the tables."""
    ANALYSED = "analysed"
    AGED = "aged"
    """Analysed, and then half of it moved on: dead rows, indexes with holes, no vacuum."""
    STALE = "stale"
    """Planned while the tables were empty and analysed so, and loaded since."""
    RENEWED = "renewed"
    """The same, and then analysed, as autovacuum does within minutes."""


def cases() -> Iterator[Any]:
    for state in State:
        for hot in STATEMENTS:
            for session in hot.sessions:
                if state is not State.RENEWED or session is Session.GENERIC:
                    name = f"{state.value}-{hot.name}-{session.value}"
                    yield pytest.param(state, hot, session, id=name)


class Queue:
    """A database in one state of its tables, with a session of every kind."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        database = PostgresDatabase(parse_url(url), schema=DEFAULT_SCHEMA)
        stack.callback(database.close)
        self.admin = stack.enter_context(psycopg.connect(url, autocommit=True))
        self._sessions: dict[Session, Connection[Any]] = {
            Session.LINK: stack.enter_context(closing(database.connect()))
        }
        for session in (Session.CUSTOM, Session.GENERIC):
            connection = stack.enter_context(database.pool.connection())
            connection.autocommit = True
            connection.execute(f"SET plan_cache_mode = force_{session.value}_plan")
            self._sessions[session] = connection
        self._prepared: dict[tuple[str, Session], Prepared] = {}
        self.first_costs: dict[tuple[str, Session], float] = {}

    def prepared(self, hot: Hot, session: Session) -> Prepared:
        """The statement in that session, prepared when it is first asked for."""
        key = (hot.name, session)
        if key not in self._prepared:
            self._prepared[key] = self.prepare(hot.template, hot.params, session)
        return self._prepared[key]

    def prepare(self, template: str, params: Mapping[str, object], session: Session) -> Prepared:
        return Prepared(self._sessions[session], template, {"shard": 0, **params})

    @contextmanager
    def without(self, table: str, index: str, session: Session) -> Iterator[None]:
        """A transaction of the session's in which the index is gone."""
        is_key = index.endswith("_pkey")
        drop = f"ALTER TABLE jobq.{table} DROP CONSTRAINT" if is_key else "DROP INDEX jobq."
        connection = self._sessions[session]
        with connection.transaction(force_rollback=True):
            connection.execute((f"{drop} {index}" if is_key else f"{drop}{index}").encode())
            yield

    def plan_all(self) -> None:
        """Have every statement planned, and note what the plans are thought to cost."""
        for hot in STATEMENTS:
            for session in hot.sessions:
                plan = self.prepared(hot, session).plan()
                self.first_costs[hot.name, session] = plan["Total Cost"]


def queue_in(state: State, url: str, stack: ExitStack) -> Queue:
    queue = Queue(url, stack)
    tables.leave_alone(queue.admin)
    if state in (State.STALE, State.RENEWED):
        queue.admin.execute("VACUUM ANALYZE")
        queue.plan_all()
    tables.load(queue.admin)
    if state in (State.ANALYSED, State.AGED, State.RENEWED):
        queue.admin.execute("ANALYZE")
    if state is State.AGED:
        tables.churn(queue.admin)
    return queue


@pytest.fixture(scope="module")
def queues(databases: Databases) -> Iterator[Callable[[State], Queue]]:
    """The queue in each state, loaded when it is first asked for."""
    with ExitStack() as stack:

        @cache
        def queue(state: State) -> Queue:
            name = databases.take()
            stack.callback(databases.drop, name)
            return queue_in(state, url_of(name), stack)

        yield queue


@pytest.fixture
def queue(request: pytest.FixtureRequest, queues: Callable[[State], Queue]) -> Queue:
    return queues(request.param)


@pytest.mark.parametrize(("queue", "hot", "session"), list(cases()), indirect=["queue"])
def test_statement_reads_by_its_keys(queue: Queue, hot: Hot, session: Session) -> None:
    plan = queue.prepared(hot, session).plan()
    assert problems(plan, hot.expected, SLACK * hot.rows) == []


@pytest.mark.parametrize("queue", [State.STALE], indirect=True)
def test_a_link_keeps_the_plans_it_made(queue: Queue) -> None:
    """Else the stale state would be the fresh one under another name."""
    for hot in STATEMENTS:
        if Session.LINK in hot.sessions:
            plan = queue.prepared(hot, Session.LINK).plan()
            assert plan["Total Cost"] == queue.first_costs[hot.name, Session.LINK], hot.name


def _indexes() -> Iterator[Any]:
    for hot in STATEMENTS:
        named = {(table, a.index) for table, found in hot.expected.items() for a in found}
        for table, index in sorted(named):
            yield pytest.param(State.ANALYSED, hot, table, index, id=f"{hot.name}-{index}")


@pytest.mark.parametrize(("queue", "hot", "table", "index"), list(_indexes()), indirect=["queue"])
def test_a_missing_index_is_noticed(queue: Queue, hot: Hot, table: str, index: str) -> None:
    session = hot.sessions[0]
    with queue.without(table, index, session):
        try:
            plan = queue.prepare(hot.template, hot.params, session).plan()
        except psycopg.errors.InvalidColumnReference:
            return  # the key of its ON CONFLICT is gone: it does not even run
    assert problems(plan, hot.expected, SLACK * hot.rows)


@pytest.mark.parametrize("queue", [State.ANALYSED], indirect=True)
def test_an_index_that_is_right_in_name_alone_is_noticed(queue: Queue) -> None:
    held = next(hot for hot in STATEMENTS if hot.name == "HELD")
    hidden = held.template.replace("job_id = named.job_id", "job_id + 0 = named.job_id")
    assert hidden != held.template
    plan = queue.prepare(hidden, held.params, Session.LINK).plan()
    assert [scan.index for scan in scans(plan) if scan.table == "leases"] == ["leases_pkey"]
    found = problems(plan, held.expected, SLACK * held.rows)
    assert any("is by none of" in problem for problem in found)
    assert any("visits more than" in problem for problem in found)


def test_every_statement_is_listed_or_excused() -> None:
    templates = {
        name
        for name, value in vars(postgres).items()
        if name.isupper() and isinstance(value, str) and name in _defined_in_the_module()
    }
    listed = [hot.name for hot in STATEMENTS if hot.sql is None]
    assert len(set(listed)) == len(listed)
    assert set(listed) & set(EXCUSED) == set()
    assert set(listed) | set(EXCUSED) == templates


def _defined_in_the_module() -> set[str]:
    tree = ast.parse(inspect.getsource(postgres))
    targets = (t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets)
    return {target.id for target in targets if isinstance(target, ast.Name)}

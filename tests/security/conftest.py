"""Login roles of the test's own, each a member of one of jobq's."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import psycopg
import pytest
from sqlalchemy.engine import make_url

from jobq import JobQueue
from jobq.roles import Roles, grant_roles, revoke_roles


@dataclass
class Granted:
    """A database with jobq's roles in it, and apps that connect as their members."""

    url: str
    roles: Roles
    logins: dict[str, str]
    _stack: ExitStack = field(default_factory=ExitStack)

    def url_as(self, role: str) -> str:
        url = make_url(self.url).set(username=self.logins[role], password="secret")
        return url.render_as_string(hide_password=False)

    def app_as_owner(self) -> JobQueue:
        return self._app(self.url)

    def app_as(self, role: str) -> JobQueue:
        return self._app(self.url_as(role))

    def _app(self, url: str) -> JobQueue:
        app = JobQueue(url)
        self._stack.callback(app.close)
        return app

    def owner(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def refusal(self, role: str, statement: str) -> str:
        """What the server says to a statement that it refuses the role."""
        with (
            psycopg.connect(self.url_as(role)) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege) as refused,
        ):
            connection.execute(statement.encode())
        return str(refused.value)


@pytest.fixture
def granted(postgres_url: str) -> Iterator[Granted]:
    # Roles belong to the whole server, which other tests use at the same time.
    roles = grant_roles(postgres_url, prefix=f"t{uuid.uuid4().hex[:12]}")
    logins = {role: f"{role}_login" for role in roles.names}
    found = Granted(postgres_url, roles, logins)
    for role, login in logins.items():
        found.owner(f"CREATE ROLE {login} LOGIN PASSWORD 'secret' IN ROLE {role}")
    with found._stack:
        yield found
    for login in logins.values():
        found.owner(f"DROP OWNED BY {login}")
        found.owner(f"DROP ROLE {login}")
    assert revoke_roles(postgres_url, prefix=roles.prefix) == []

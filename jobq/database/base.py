"""What a backend's connections can do, whichever backend it is."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

from sqlalchemy.engine import URL

from jobq.protocol.values import Recorded
from jobq.revisions import check_revision
from jobq.store.base import Store
from jobq.store.step import Step

T = TypeVar("T")
C = TypeVar("C")


class Link(ABC):
    """One connection of its own, opened when first used and again after it broke.

    For a worker's control and heartbeat: never waiting for a pool, never used by two threads.
    """

    @abstractmethod
    def run(self, step: Step[T]) -> T:
        """Run `step` in one transaction and commit it.

        Raises DatabaseUnavailable when the connection failed; nothing is known then of what
        the transaction did, and every step may be repeated. The next call connects again.
        """

    @abstractmethod
    def watched(
        self, loop: asyncio.AbstractEventLoop, on_news: Callable[[], None]
    ) -> AbstractContextManager[None]:
        """For a block in which nothing runs on the link: call `on_news`, once or more often, when
        jobs may have been enqueued since the last step began."""

    @property
    def is_told(self) -> bool:
        """Whether `watched` calls at all."""
        return True

    @abstractmethod
    def abandon(self) -> None:
        """Make a `run` that another thread waits for fail, soon. Blocks for a moment."""

    @abstractmethod
    def close(self) -> None: ...


class NotWhole(Exception):
    """The transaction is not the one that was begun, or it has failed."""


class Effect(ABC, Generic[C]):
    """An open transaction for a job's effect."""

    handle: C
    """What the handler works with: a session or connection of the kind it asked for."""

    @abstractmethod
    def run(self, step: Step[T]) -> T:
        """Run `step` inside the transaction, outside of any savepoint."""

    @abstractmethod
    def flush(self) -> None:
        """Send what the handler's session still holds."""

    @abstractmethod
    def commit(self, confirm: Step[bool], then: Step[Recorded] | None = None) -> None:
        """Run `confirm`, a step of one question, and commit if it finds a row.

        With `then`, the step that begins another effect, do that too if it costs nothing: see
        `has_begun`. Its errors are not raised, and not lost: that effect begins anew.

        Raises NotWhole, with nothing committed, when the question finds no row or cannot be asked.
        """

    @property
    def has_begun(self) -> bool:
        """Whether the effect of `commit`'s `then` was begun, and its step can be run here."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Roll back what was not committed, and give the connection back."""

    @property
    @abstractmethod
    def is_broken(self) -> bool:
        """Whether the connection was lost."""


class AsyncEffect(ABC, Generic[C]):
    """An open transaction for a job's effect, for `async def` handlers. See `Effect`."""

    handle: C

    @abstractmethod
    async def run(self, step: Step[T]) -> T: ...

    @abstractmethod
    async def flush(self) -> None: ...

    @abstractmethod
    async def commit(self, confirm: Step[bool], then: Step[Recorded] | None = None) -> None: ...

    @property
    def has_begun(self) -> bool:
        return False

    @abstractmethod
    async def close(self) -> None: ...

    @property
    @abstractmethod
    def is_broken(self) -> bool: ...


class Database(ABC):
    """Connections to one database: a pool for steps and effects, and links of their own."""

    store: Store
    url: URL
    schema: str
    is_pooled: bool = False
    """Whether its transactions may each have another server process."""
    max_connections: int

    @abstractmethod
    def run(self, step: Step[T]) -> T:
        """Run `step` in a transaction of its own on a pooled connection. Blocks.

        Raises DatabaseUnavailable, NotMigrated or NotPermitted.
        """

    @abstractmethod
    async def run_async(self, step: Step[T]) -> T:
        """Run `step` in a transaction of its own without blocking the event loop."""

    def with_settings(self, step: Step[T]) -> Step[T]:
        """The step with what its transaction needs to be told first, if the session cannot be."""
        return step

    @abstractmethod
    def link(self, *, listens: bool = False) -> Link:
        """Return a new link; with `listens` one that is told of enqueued jobs (see `watched`)."""

    @abstractmethod
    def supports(self, kind: type[Any]) -> bool:
        """Return whether effects can be given as `kind`, a session or connection class."""

    @abstractmethod
    def begin_effect(self, kind: type[C]) -> Effect[C]: ...

    @abstractmethod
    async def begin_effect_async(self, kind: type[C]) -> AsyncEffect[C]: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    async def aclose(self) -> None:
        """Close what belongs to the running event loop."""

    def check(self) -> None:
        """Raise unless the database answers, is recent enough and is migrated to this version.

        Connects afresh, so that a wrong password is told as such and not as a pool's timeout.
        """
        link = self.link()
        try:
            check_revision(link.run(self.store.revision()))
        finally:
            link.close()

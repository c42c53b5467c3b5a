"""Running what is outside the database: an attempt's beginning, and its steps.

The store's steps do the fencing; here they are insisted on. An outside call that was made and is
not recorded would be made again, so a database that is away is waited for, for a while.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from jobq.database.base import Database
from jobq.encryption import PLAIN, Encryption, step_of
from jobq.errors import DatabaseUnavailable, InvalidStep, LeaseLost
from jobq.protocol.outside import OutsideEffects, StepResult, check_step_name, step_key
from jobq.protocol.values import ClaimedJob
from jobq.protocol.versions import read_stored
from jobq.store.step import Step
from jobq.store.steps import begin, find_step, record_step

if TYPE_CHECKING:
    from jobq.job import Fate

T = TypeVar("T")

INSIST_FOR_S = 30.0
"""How long to go on trying to write to a database that is away."""
_PAUSE_S = 0.2
_KEY_PARAMETER = "idempotency_key"


class Outside:
    """One attempt's dealings with the world outside the database."""

    def __init__(
        self,
        claimed: ClaimedJob,
        database: Database,
        fate: Fate,
        encryption: Encryption = PLAIN,
    ) -> None:
        self._task = read_stored(claimed.task)[0]
        self._encryption = encryption
        self._lease = claimed.lease
        self._job_key = claimed.idempotency_key
        self._database = database
        self._fate = fate
        self._names: dict[str, object] = {}

    # -- the beginning

    def begin(self, policy: OutsideEffects) -> None:
        """Note that the handler begins, and what follows if nobody learns how it ends. Blocks.

        Raises LeaseLost, AlreadyCommitted or DatabaseUnavailable.
        """
        self._check_lease()
        self._insist(lambda: begin(self._portable, self._lease, policy))

    async def begin_async(self, policy: OutsideEffects) -> None:
        """`begin` for asyncio."""
        self._check_lease()
        await self._insist_async(lambda: begin(self._portable, self._lease, policy))

    # -- steps

    def key(self, name: str) -> UUID:
        check_step_name(name)
        return step_key(self._job_key, name)

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Blocks. See `Job.step`."""
        with self._stepping(name):
            if inspect.iscoroutinefunction(function):
                raise _is_async(name)
            result, what = StepResult(name, function), step_of(self._task, name)
            recorded = self._insist(lambda: find_step(self._portable, self._lease, name))
            if recorded is None:
                returned = function(*args, **self._with_key(name, function, kwargs))
                if inspect.iscoroutine(returned):
                    returned.close()  # nothing of it has run
                    raise _is_async(name)
                made = self._encryption.seal(what, result.encode(returned))
                recorded = self._insist(
                    lambda: record_step(self._portable, self._lease, name, made)
                )
            return result.decode(self._encryption.unseal(what, recorded))

    async def step_async(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """See `Job.astep`."""
        with self._stepping(name):
            result, what = StepResult(name, function), step_of(self._task, name)
            recorded = await self._insist_async(
                lambda: find_step(self._portable, self._lease, name)
            )
            if recorded is None:
                returned = function(*args, **self._with_key(name, function, kwargs))
                if inspect.isawaitable(returned):
                    returned = await returned
                made = self._encryption.seal(what, result.encode(returned))
                record = self._insist_async(
                    lambda: record_step(self._portable, self._lease, name, made)
                )
                recorded = await _to_its_end(record)
            return result.decode(self._encryption.unseal(what, recorded))

    @property
    def _portable(self) -> Any:
        return self._database.store.portable

    def _with_key(
        self, name: str, function: Callable[..., Any], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """The step's idempotency key, for a function that has a parameter of that name."""
        if _KEY_PARAMETER in kwargs:
            return kwargs
        try:
            asks = _KEY_PARAMETER in inspect.signature(function).parameters
        except (TypeError, ValueError):  # some builtins have no signature
            asks = False
        return {**kwargs, _KEY_PARAMETER: self.key(name)} if asks else kwargs

    @contextmanager
    def _stepping(self, name: str) -> Iterator[None]:
        check_step_name(name)
        self._check_place(name)
        mine = object()
        if self._names.setdefault(name, mine) is not mine:
            raise InvalidStep(
                f"step {name!r} was run in this attempt already, and would be given the same "
                f"result: give each step a name of its own, as in f'{name} {{item}}'"
            )
        try:
            self._check_lease()
            yield
        except BaseException:
            del self._names[name]  # it has no result: the handler may try again
            raise

    def _check_place(self, name: str) -> None:
        if self._fate.is_boundary_open:
            raise InvalidStep(
                f"step {name!r} is inside the open commit boundary, which should not wait for the "
                "outside: run steps before it, in a handler that takes the job and opens "
                "job.commit() last"
            )
        if self._fate.is_committed:
            raise InvalidStep(
                f"step {name!r} comes after the commit: its job is done and nothing would run it "
                "again after a crash. Run it before job.commit(), or enqueue a job for it inside"
            )

    def _check_lease(self) -> None:
        if self._fate.is_lease_lost:  # by the heartbeat: no need to ask the database
            raise LeaseLost(self._lease.job_id, self._lease.token)

    def _insist(self, step: Callable[[], Step[T]]) -> T:
        deadline_s = time.monotonic() + INSIST_FOR_S
        while True:
            try:
                return self._database.run(step())
            except DatabaseUnavailable:
                if time.monotonic() >= deadline_s or self._fate.is_lease_lost:
                    raise
                time.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311

    async def _insist_async(self, step: Callable[[], Step[T]]) -> T:
        deadline_s = time.monotonic() + INSIST_FOR_S
        while True:
            try:
                return await self._database.run_async(step())
            except DatabaseUnavailable:
                if time.monotonic() >= deadline_s or self._fate.is_lease_lost:
                    raise
                await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311


async def _to_its_end(recording: Coroutine[Any, Any, T]) -> T:
    """A handler that is cancelled has made its call: it is recorded before the handler stops."""
    task = asyncio.ensure_future(recording)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # it failed, then: the next attempt makes the call again
        raise


def _is_async(name: str) -> InvalidStep:
    return InvalidStep(
        f"step {name!r} runs a coroutine function: in an `async def` handler use "
        "await job.astep(...)"
    )

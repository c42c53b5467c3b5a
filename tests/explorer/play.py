"""One schedule: its moves are taken one by one, each as somebody chose."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import psycopg

from jobq.store.step import Statement
from tests.explorer.programs import Cast, End, Program, Told, Unseen
from tests.explorer.stage import PATIENCE_S, Slot, Stage, State

NAMES = "abc"


class Kind(StrEnum):
    """What happens when it is an actor's turn."""

    STEP = ""
    CRASH = "crash"
    """Its connection is dropped, and it never comes back."""
    LOST = "lost"
    """Its COMMIT takes place, and the answer is lost."""
    LOST_UNDONE = "lost-undone"
    """Its COMMIT does not take place, and the answer is lost."""


@dataclass(frozen=True, slots=True)
class Choice:
    actor: str
    kind: Kind = Kind.STEP

    def __str__(self) -> str:
        return f"{self.actor}:{self.kind}" if self.kind else self.actor

    @classmethod
    def parse(cls, told: str) -> Choice:
        actor, _, kind = told.partition(":")
        return cls(actor, Kind(kind))


Schedule = tuple[Choice, ...]


def schedule_of(told: str) -> Schedule:
    """Read a schedule as a report prints it: "a a b b:crash a"."""
    return tuple(Choice.parse(one) for one in told.split())


@dataclass
class Part:
    """An actor in the middle of its program."""

    number: int
    name: str
    program: Program[None]
    slot: Slot
    next: Statement | End | None = None
    """Its next move; None when it has none left, or waits."""
    waiting: asyncio.Task[Any] | None = None
    """A statement that waits for somebody's lock."""
    waits_since: State = ()
    """What was committed when that statement began: the snapshot it will go on with."""
    log: list[object] = field(default_factory=list)
    """All that it was told, on which alone its next move depends."""


@dataclass(frozen=True, slots=True)
class Moment:
    """All that what happens next can depend on.

    The committed rows, without their times, of which only the order matters. For each actor, what
    it was told so far: from this follow its next move and its locals, and, together with the
    committed rows, what its open transaction has written and locked. For a statement of the store
    returns or counts the rows that it touches, or touches the leases that it was named: those that
    it found are still among the committed rows, where it keeps others from removing them, and
    those that it did not find never come back, since no token is given twice. And for a statement
    that waits, the committed rows of its snapshot; every other one will see those of its own
    beginning, because transactions are READ COMMITTED.
    """

    state: State
    told: tuple[tuple[object, ...], ...]
    snapshots: tuple[State, ...]
    faults: int


class Play:
    """A schedule under way."""

    def __init__(
        self, stage: Stage, shard: int, cast: Cast, programs: Sequence[Program[None]], faults: int
    ) -> None:
        self.cast = cast
        self.errors: list[str] = []
        """What the actors raised. Nothing here may."""
        self.taken: list[Choice] = []
        self.told: list[str] = []
        """The moves so far, for people."""
        self._stage = stage
        self.shard = shard
        self._faults = faults
        self._parts = {
            NAMES[number]: Part(number, NAMES[number], program, stage.slots[number])
            for number, program in enumerate(programs)
        }

    def begin(self) -> None:
        for part in self._parts.values():
            part.slot.count = 0  # of the schedule before
            self._go_on(part, None)

    @property
    def is_over(self) -> bool:
        return not any(part.next for part in self._parts.values())

    @property
    def is_deadlocked(self) -> bool:
        return self.is_over and any(part.waiting for part in self._parts.values())

    def choices(self) -> list[Choice]:
        able = [part for part in self._parts.values() if part.next is not None]
        choices = [Choice(part.name) for part in able]
        if self._faults:
            choices += [Choice(part.name, Kind.CRASH) for part in able]
            for part in able:
                if part.next is End.COMMIT_OR_ASK:
                    choices += [Choice(part.name, Kind.LOST), Choice(part.name, Kind.LOST_UNDONE)]
        return choices

    async def moment(self) -> Moment:
        parts = self._parts.values()
        return Moment(
            await self._stage.state(self.shard),
            tuple(tuple(part.log) for part in parts),
            tuple(part.waits_since for part in parts),
            self._faults,
        )

    async def take(self, choice: Choice, *, drops: bool = False) -> None:
        """Make the move. `drops`: a crash drops the connection, where otherwise it only rolls back,
        which is what the server does when it finds a connection gone."""
        part = self._parts[choice.actor]
        move, part.next = part.next, None
        assert move is not None, f"{choice} cannot move"
        self._faults -= choice.kind is not Kind.STEP
        self.taken.append(choice)
        self.told.append(f"{choice}: {_described(move)}")
        if choice.kind is Kind.CRASH:
            part.program.close()
            part.log.append("crashed")
            if drops:
                await self._stage.drop(part.number)
                part.slot = self._stage.slots[part.number]
            else:
                part.slot.end("ROLLBACK")
        elif isinstance(move, End):
            is_undone = move is End.ROLLBACK or choice.kind is Kind.LOST_UNDONE
            part.slot.end("ROLLBACK" if is_undone else "COMMIT")
            told = Told.COMMITTED if choice.kind is Kind.STEP else Told.NOTHING
            self._go_on(part, told)
        else:
            self._start(part, move)
        for other in self._parts.values():
            await self._settle(other)

    async def end(self) -> None:
        """Leave the stage as it was found, wherever the schedule was left."""
        for part in self._parts.values():
            part.program.close()
            if part.waiting is not None:
                await part.slot.connection.cancel_safe()
                with suppress(psycopg.Error):
                    await part.waiting
                part.waiting = None
        for part in self._parts.values():
            part.slot.end("ROLLBACK")

    def _start(self, part: Part, statement: Statement) -> None:
        self._stage.statements += 1
        part.waiting = asyncio.ensure_future(part.slot.run(statement))

    async def _settle(self, part: Part) -> None:
        """Wait until its statement is answered, or waits for somebody's lock."""
        while part.waiting is not None:
            done, _ = await asyncio.wait({part.waiting}, timeout=PATIENCE_S)
            if not done and await self._stage.is_blocked(part.slot):
                part.waits_since = part.waits_since or await self._stage.state(self.shard)
                return
            if done:
                waiting, part.waiting, part.waits_since = part.waiting, None, ()
                try:
                    rows = waiting.result()
                except psycopg.Error as error:
                    self._give_up(part, error)
                else:
                    self._go_on(part, rows)

    def _go_on(self, part: Part, told: Any) -> None:
        """Tell the program what became of its move, and get the next."""
        part.log.append((_comparable(told), part.slot.count))
        try:
            move = next(part.program) if told is None else part.program.send(told)
        except StopIteration:
            assert not part.slot.is_open, f"{part.name} left its transaction open"
        except Exception as error:  # noqa: BLE001 - whatever an actor raises is a finding
            self._give_up(part, error)
        else:
            if isinstance(move, Unseen):
                self._start(part, move.statement)
            else:
                part.next = move

    def _give_up(self, part: Part, error: Exception) -> None:
        self.errors.append(f"{part.name} raised {type(error).__name__}: {error}")
        part.log.append(type(error).__name__)
        part.program.close()
        part.slot.end("ROLLBACK")


async def play_alone(slot: Slot, program: Program[Any]) -> Any:
    """Run a program to its end, with nobody in its way."""
    told: Any = None
    while True:
        try:
            move = next(program) if told is None else program.send(told)
        except StopIteration as end:
            return end.value
        if isinstance(move, End):
            slot.end("ROLLBACK" if move is End.ROLLBACK else "COMMIT")
            told = Told.COMMITTED
        else:
            told = await slot.run(move.statement if isinstance(move, Unseen) else move)


def _comparable(told: Any) -> object:
    """Rows without what differs from one run to the next.

    Those are times, random keys, and the numbers of transactions: an actor asks of its own only
    whether it is still the one that is open, and no committed row holds one.
    """
    if isinstance(told, list):
        return tuple(tuple(map(_unchanging, row)) for row in told)
    return told


def _unchanging(value: object) -> object:
    if isinstance(value, str):
        return "a transaction" if value.isdecimal() else value
    return value if isinstance(value, int) else type(value).__name__


def _described(move: Statement | End) -> str:
    return move.name if isinstance(move, End) else " ".join(move.sql.split())[:70]

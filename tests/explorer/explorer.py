"""Every schedule of a space: depth first, each played from the beginning.

Two schedules that reach the same moment go on alike, so a moment is gone on from once; see `Moment`
for what makes two of them the same. `merges=False` does without, and takes far longer to find the
same ends: tests/explorer/test_explorer.py compares them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jobq.protocol.values import Lease
from jobq.store import Store
from jobq.store.postgres import PostgresStore
from tests.chaos.checker import check
from tests.chaos.history import Answer, Op
from tests.explorer import programs
from tests.explorer.play import Moment, Play, Schedule, play_alone
from tests.explorer.programs import NOTIFY, Cast
from tests.explorer.scenes import Space
from tests.explorer.stage import Stage, State, books_of

MAX_PASSES = 8
"""Passes of recovery after a schedule, each with a worker behind it. More than any job has
attempts: what is not at its end after them never will be."""

Weaken = Callable[[Store], Store]


@dataclass(frozen=True, slots=True)
class Finding:
    """A schedule at whose end an invariant is broken."""

    space: str
    schedule: Schedule
    what: tuple[str, ...]
    moves: tuple[str, ...]

    def __str__(self) -> str:
        told = "\n".join(f"    {move}" for move in self.moves)
        schedule = " ".join(map(str, self.schedule))
        broken = "\n  ".join(self.what)
        return f'--space "{self.space}" --schedule "{schedule}"\n{told}\n  {broken}'


@dataclass
class Report:
    schedules: int = 0
    """Played to their end."""
    met: int = 0
    """Left at a moment that was met before."""
    statements: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    ends: set[Moment] = field(default_factory=set)
    """The different ways in which the schedules ended well."""

    def add(self, other: Report) -> None:
        self.schedules += other.schedules
        self.met += other.met
        self.statements += other.statements
        self.seconds += other.seconds
        self.findings += other.findings

    def __str__(self) -> str:
        played = self.schedules + self.met
        rate = played / self.seconds if self.seconds else 0.0
        return (
            f"{self.schedules} schedules to their end, {self.met} to a moment met before, "
            f"{self.statements} statements in {self.seconds:.1f} s ({rate:.0f} a second), "
            f"{len(self.findings)} violations"
        )

    @property
    def shortest(self) -> Finding | None:
        return min(self.findings, key=lambda finding: len(finding.schedule), default=None)


class Explorer:
    """Explores spaces on one stage, with one store."""

    def __init__(
        self,
        stage: Stage,
        weaken: Weaken = lambda store: store,
        *,
        drops: bool = False,
        merges: bool = True,
        weakens_scene: bool = False,
    ) -> None:
        self._stage = stage
        self._weaken = weaken
        self._drops = drops
        self._merges = merges
        self._weakens_scene = weakens_scene

    async def explore(self, space: Space, *, faults: int, stops_at: int | None = None) -> Report:
        """Play every schedule with at most so many faults; `stops_at` findings is enough."""
        report = Report()
        began_s, statements = time.monotonic(), self._stage.statements
        moments: set[Moment] = set()
        waiting: list[Schedule] = [()]
        while waiting and (stops_at is None or len(report.findings) < stops_at):
            prefix = waiting.pop()
            play = await self._begin(space, faults)
            for choice in prefix:
                await play.take(choice, drops=self._drops)
            what: tuple[str, ...] = ()
            is_met = False
            while not (play.is_over or what or is_met):
                if self._merges:
                    moment = await play.moment()
                    is_met = moment in moments
                    moments.add(moment)
                    what = self._broken(space, play.cast, moment.state, is_at_rest=False)
                if not is_met and not what:
                    choice, *others = play.choices()
                    waiting += [(*play.taken, other) for other in others]
                    await play.take(choice, drops=self._drops)
            if is_met:
                report.met += 1
                await play.end()
            else:
                report.schedules += 1
                if what := what or await self._judge(space, play, report.ends):
                    told = tuple(play.told)
                    report.findings.append(Finding(str(space), tuple(play.taken), what, told))
                await play.end()
        report.seconds = time.monotonic() - began_s
        report.statements = self._stage.statements - statements
        return report

    async def replay(self, space: Space, schedule: Schedule) -> Finding | None:
        """Play one schedule. Raises AssertionError when it does not fit the space."""
        play = await self._begin(space, faults=len(schedule))
        for choice in schedule:
            assert choice in play.choices(), f"{choice} is not possible after {play.told}"
            await play.take(choice, drops=self._drops)
        what = await self._judge(space, play, set())
        return Finding(str(space), schedule, what, tuple(play.told)) if what else None

    async def _begin(self, space: Space, faults: int) -> Play:
        shard = await self._stage.begin()
        scene = space.scene
        store = PostgresStore(self._stage.schema, shard)
        # The scene is brought about by the real store, where the schema lets it: what is weakened
        # is what follows.
        cast = Cast(self._weaken(store) if self._weakens_scene else store, scene.task)
        await play_alone(self._stage.slots[0], scene.prepare(cast, scene.max_attempts))
        cast.store = self._weaken(store)
        for holder in sorted({role.runs for role in space.roles} - {""}):
            for lease in cast.leases[holder]:
                _tell_start(cast, holder, lease)
        play = Play(self._stage, shard, cast, [role.actor(cast) for role in space.roles], faults)
        play.begin()
        return play

    async def _judge(self, space: Space, play: Play, ends: set[Moment]) -> tuple[str, ...]:
        """Check the invariants where the schedule ended, and again when recovery has run.

        Where actors were still in the middle of something, they are crashed.
        """
        if play.is_deadlocked:
            await play.end()
            return ("no two steps deadlock: nobody can move", *play.errors)
        await play.end()
        end = await play.moment()
        if end in ends and not play.errors:
            return ()
        broken = (*play.errors, *self._broken(space, play.cast, end.state, is_at_rest=False))
        if broken:
            return broken
        ends.add(end)
        return await self._broken_after_recovery(space, play)

    async def _broken_after_recovery(self, space: Space, play: Play) -> tuple[str, ...]:
        cast, shard = play.cast, play.shard
        slot = self._stage.slots[0]
        for _ in range(MAX_PASSES):
            await self._stage.expire(shard)
            await play_alone(slot, programs.reconcile(cast, "recovery"))
            await play_alone(slot, programs.claim_and_attempt(cast, "recovery"))
            state = await self._stage.state(shard)
            if not any(row.table in ("scheduled", "ready", "leases") for row in state):
                break
        return self._broken(space, cast, state, is_at_rest=True)

    def _broken(
        self, space: Space, cast: Cast, state: State, *, is_at_rest: bool
    ) -> tuple[str, ...]:
        books = books_of(state, cast, space.scene.max_attempts)
        found = check(cast.history, books, effectless=[NOTIFY], is_at_rest=is_at_rest)
        return (*(str(violation) for violation in found), *_interference(cast, state))


def _interference(cast: Cast, state: State) -> Sequence[str]:
    """I4 in what the books and the checker do not know: who reported, and who held."""
    failed = {(one.job, one.token) for one in cast.history if one.op is Op.FAIL}
    beaten = {(one.job, one.token) for one in cast.history if one.op is Op.HEARTBEAT}
    found = []
    for row in state:
        if row.table == "attempt" and row.what == "failed" and (row.job, row.token) not in failed:
            found.append(f"I4 job {row.job}: token {row.token} was failed by somebody else")
        if row.table == "leases" and not row.more and (row.job, row.token) not in beaten:
            found.append(f"I4 job {row.job}: token {row.token} was extended by somebody else")
    return found


def _tell_start(cast: Cast, who: str, lease: Lease) -> None:
    """The attempt begins, unless it began in the scene."""
    given = [one for one in cast.history if (one.job, one.token) == (lease.job_id, lease.token)]
    if not any(one.op is Op.START for one in given):
        (claim,) = (one for one in given if one.op is Op.CLAIM)
        facts = {"job": claim.job, "token": claim.token, "attempt": claim.attempt}
        cast.tell(who, Op.START, Answer.NONE, **facts)

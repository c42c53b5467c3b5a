"""The spaces that are explored: a scene to begin with, and two or three actors in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement

from jobq.protocol.values import ClaimedJob, JobRequest, Lease
from tests.chaos.history import Answer, Op
from tests.explorer import programs
from tests.explorer.programs import (
    ALREADY_EXPIRED_S,
    CHARGE,
    LONG_S,
    NOTIFY,
    QUEUE,
    Actor,
    Cast,
    Program,
    in_transaction,
)

MAX_ATTEMPTS = 3

Prepare = Callable[[Cast, int], Program[None]]


@dataclass(frozen=True, slots=True)
class Role:
    """What an actor may do in a scene."""

    label: str
    actor: Actor
    runs: str = ""
    """Whose attempt it runs, when it begins in the middle of one."""
    not_with: frozenset[str] = frozenset()
    """Roles that no worker plays at the same time, with the same lease."""


@dataclass(frozen=True, slots=True)
class Scene:
    name: str
    prepare: Prepare
    roles: tuple[Role, ...]
    task: str = CHARGE
    jobs: int = 1
    max_attempts: int = MAX_ATTEMPTS


@dataclass(frozen=True, slots=True)
class Space:
    """All schedules of these roles from this scene."""

    scene: Scene
    roles: tuple[Role, ...]

    def __str__(self) -> str:
        return f"{self.scene.name}: {' | '.join(role.label for role in self.roles)}"


# -- how a scene comes about


def _enqueue(cast: Cast, scene_jobs: int, max_attempts: int) -> Program[None]:
    requests = [
        JobRequest(cast.task, "{}", QUEUE, 0, max_attempts, None, 0.0) for _ in range(scene_jobs)
    ]
    cast.jobs = yield from in_transaction(cast.store.enqueue(requests))
    keys = tuple(f"job {job}" for job in cast.jobs)
    cast.tell("setup", Op.ENQUEUE, Answer.ACKNOWLEDGED, keys=keys, jobs=tuple(cast.jobs))


def _claim(cast: Cast, who: str, lease_s: float = ALREADY_EXPIRED_S) -> Program[list[ClaimedJob]]:
    claimed = yield from in_transaction(programs.claim(cast, who, lease_s))
    cast.leases[who] = [job.lease for job in claimed]
    for job in claimed:
        cast.tell_claim(who, job, is_started=False)
    return claimed


def ready(cast: Cast, max_attempts: int, jobs: int = 1) -> Program[None]:
    yield from _enqueue(cast, jobs, max_attempts)


def leased(cast: Cast, max_attempts: int, jobs: int = 1) -> Program[None]:
    yield from ready(cast, max_attempts, jobs)
    yield from _claim(cast, "A")


def held(cast: Cast, max_attempts: int) -> Program[None]:
    yield from ready(cast, max_attempts)
    (job,) = yield from _claim(cast, "A", LONG_S)
    cast.tell("A", Op.HEARTBEAT, job=job.lease.job_id, token=job.lease.token)


def taken_back(cast: Cast, max_attempts: int) -> Program[None]:
    yield from leased(cast, max_attempts)
    yield from in_transaction(cast.store.reconcile(10, lambda _: 0.0))


def zombie(cast: Cast, max_attempts: int) -> Program[None]:
    yield from taken_back(cast, max_attempts)
    yield from in_transaction(cast.store.promote(10))
    yield from _claim(cast, "B")


def committed(cast: Cast, max_attempts: int) -> Program[None]:
    yield from ready(cast, max_attempts)
    (job,) = yield from _claim(cast, "A")
    cast.tell("A", Op.START, job=job.lease.job_id, token=job.lease.token, attempt=job.attempt)
    yield from programs.commit_effect(cast, "A", job.lease)


# -- the roles


def _holder(holder: str) -> tuple[Role, ...]:
    """What the process that holds (or held) a lease may be about to do with it."""

    def run(cast: Cast) -> Program[None]:
        return programs.attempt(cast, holder, cast.leases[holder][0])

    def with_leases(do: Callable[[Cast, str, Sequence[Lease]], Program[None]]) -> Actor:
        return lambda cast: do(cast, holder, cast.leases[holder])

    releases = f"{holder} releases"
    unstarted = frozenset({releases})
    return (
        Role(f"{holder} runs", run, runs=holder, not_with=unstarted),
        Role(f"{holder} fails", with_leases(programs.fail), runs=holder, not_with=unstarted),
        Role(releases, with_leases(programs.release), not_with=unstarted),
        Role(f"{holder} beats", with_leases(programs.heartbeat)),
    )


A_RUNS, A_FAILS, A_RELEASES, A_BEATS = _holder("A")
B_RUNS, B_FAILS, *_ = _holder("B")
WORKER = Role("worker", lambda cast: programs.claim_and_attempt(cast, "W"))
RECONCILER = Role("reconciler", lambda cast: programs.reconcile(cast, "R"))
CANCELLER = Role("canceller", lambda cast: programs.cancel(cast, "C", cast.jobs[0]))
PROMOTER = Role("promoter", programs.promote)
IDLE_RECONCILER = Role("reconciler of the living", programs.reconcile_nothing)
FINALIZER = Role("A finalizes", lambda cast: programs.finalize(cast, "A", cast.leases["A"]))
ANYBODY = (WORKER, RECONCILER, CANCELLER)


def _both_in_reverse(cast: Cast) -> Program[None]:
    return programs.attempt_all(cast, "A", cast.leases["A"][::-1])


def _with_both(do: Callable[[Cast, str, Sequence[Lease]], Program[None]]) -> Actor:
    return lambda cast: do(cast, "A", cast.leases["A"])


TWO_JOBS = (
    Role("A returns 2, 1", _both_in_reverse, runs="A"),
    Role("A fails 1, 2", _with_both(programs.fail), runs="A"),
    Role("A beats 1, 2", _with_both(programs.heartbeat)),
    RECONCILER,
    CANCELLER,
    Role("canceller of 2", lambda cast: programs.cancel(cast, "C2", cast.jobs[1])),
)

A = (A_RUNS, A_FAILS, A_RELEASES, A_BEATS)
SCENES = (
    Scene("ready", ready, ANYBODY),
    Scene("ready, no effect", ready, (WORKER, RECONCILER), task=NOTIFY),
    Scene("leased", leased, (*A, FINALIZER, *ANYBODY)),
    Scene("leased, no effect", leased, (A_RUNS, *ANYBODY), task=NOTIFY),
    Scene("leased, last attempt", leased, (A_RUNS, A_FAILS, *ANYBODY), max_attempts=1),
    Scene("held", held, (*A, IDLE_RECONCILER)),
    Scene("taken back", taken_back, (*A, PROMOTER, *ANYBODY)),
    Scene("zombie", zombie, (*A, B_RUNS, B_FAILS, *ANYBODY)),
    Scene("committed", committed, (A_RUNS, A_FAILS, FINALIZER, *ANYBODY)),
    Scene("two jobs", partial(leased, jobs=2), TWO_JOBS, task=NOTIFY, jobs=2),
)


def spaces(actors: int) -> Iterator[Space]:
    """Every way to cast that many actors, one role twice included, in every scene."""
    for scene in SCENES:
        for roles in combinations_with_replacement(scene.roles, actors):
            if not any(
                other.label in role.not_with
                for position, role in enumerate(roles)
                for other in (*roles[:position], *roles[position + 1 :])
            ):
                yield Space(scene, roles)

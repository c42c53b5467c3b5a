"""The failure modes, each as a scenario that asks one thing of a queue.

A scenario says what the handlers do (`Act`), does what befalls the workers, and judges by what the
application sees. It knows nothing of any queue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice

from scoreboard.adapter import DONE, FAILED, MAX_RUNS, PATIENT_RUNS, RUNNING
from scoreboard.runs import ANY, PAST_EFFECT, Act
from scoreboard.stage import STARTS_WITHIN_S, NotWithin, Stage

RECOVERED_WITHIN_S = 90.0
ENDS_WITHIN_S = 30.0
"""From when a run may go on, until its handler has ended; from then until the queue says so."""
SETTLES_S = 4.0
"""How long to watch for what comes late. Retries are set to come within a second or two."""
LEADS_WITHIN_S = 3.0
LETS_GO_S = 1.5
"""What a frozen worker had asked of a broker times out meanwhile."""
WARM_UP = Act(takes_s=0.2, effect=False)
WARM_UP_JOBS, WARM_UPS = 4, 100
"""So many jobs at a time, and so many times at most, until the worker has had one."""
RUNS_SEEN = 8
"""How often a job that kills its worker is seen to run before it is given up."""
JOBS = 60
TAKES_S = 0.1
CRASHES_AFTER = 10
FINISHES_WITHIN_S = 120.0
SUPERVISED_RESTARTS = 5
"""How often a worker that exits is started again, as a supervisor would."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one scenario showed of one queue."""

    says: str
    holds: bool | None
    """None where it cannot be said."""
    counts: Mapping[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One failure mode."""

    name: str
    title: str
    plays: tuple[Callable[[Stage], Verdict], ...]
    """Each on a stage of its own. What does not hold in one does not hold."""
    max_runs: int = MAX_RUNS


def times(applied: int) -> str:
    return {0: "lost", 1: "exactly once", 2: "twice"}.get(applied, f"{applied} times")


# -- 1, 4: how often the effect is applied


def late_effect(stage: Stage) -> Verdict:
    """A is frozen just before its effect; B gets the job and applies it; A wakes."""
    _freeze_a(stage, {"1": Act(freeze=True), ANY: Act()})
    took_s, missing = _recovered(stage, lambda: stage.has_ended(2))
    stage.thaw("A")
    _bounded(stage, lambda: stage.has_ended(1), "A's handler to end")
    return _effects(stage, missing, took_s)


def killed_after_effect(stage: Stage) -> Verdict:
    """A's effect is committed, and A is killed before the queue heard of it."""
    stage.plan({ANY: {"1": Act(kill="worker"), ANY: Act()}})
    stage.start("A")
    stage.enqueue(1)
    stage.until_seen("dies", run=1)
    stage.until_dead("A")
    stage.start("B", in_place_of="A")
    took_s, missing = _recovered(stage, lambda: stage.has_ended(2) or stage.has_fate())
    return _effects(stage, missing, took_s)


def _effects(stage: Stage, missing: str, took_s: float) -> Verdict:
    _bounded(stage, stage.has_fate, "the queue to say what became of the job")
    stage.watch(SETTLES_S)
    applied, runs = stage.ledger()[1], stage.began()
    (word,) = stage.words(1)
    stage.tell(f"the ledger has it {times(applied)}; the queue says {word}")
    counts = {"applied": applied, "runs": runs, "recovered_s": round(took_s, 1)}
    if missing:
        return Verdict(f"{missing}; {times(applied)}", False, counts)
    return Verdict(times(applied), applied == 1, counts)


# -- 2, 3: what a late report changes


def late_success(stage: Stage) -> Verdict:
    """A, frozen, loses its job to B; wakes while B runs, and reports success. Then B fails."""
    missing = _two_runs(
        stage, Act(freeze=True, effect=False), Act(effect=False, hold=True, fail=True)
    )
    if missing is not None:
        return missing
    stage.thaw("A")
    _bounded(stage, lambda: stage.has_ended(1), "A's handler to end")
    stage.watch(SETTLES_S)
    word, runs = stage.words(1)[0], stage.began()
    stage.tell(f"while B runs, the queue says {word}")
    stage.let_go(1, 2)
    _bounded(stage, lambda: stage.has_ended(2), "B's handler to end")
    # B failed: so the job is to run again, or to be called failed.
    _bounded(stage, lambda: stage.has_ended(3) or stage.has_fate(), "what becomes of B's failure")
    stage.watch(SETTLES_S)
    end, again = stage.words(1)[0], stage.began()
    stage.tell(f"after B failed, the queue says {end}; runs: {again}")
    counts = {"runs": again}
    if stage.state(word) == DONE:
        return Verdict(f"`{word}` while B ran; B's failure {_kept(again)}", False, counts)
    if runs > 2:
        return Verdict(f"run {runs} times at once", False, counts)
    if stage.state(end) == FAILED or (stage.state(end) == DONE and again == 3):
        return Verdict("holds", True, counts)
    return Verdict(f"B failed, yet `{end}` after {again} runs", False, counts)


def _kept(runs: int) -> str:
    return "still retried" if runs > 2 else "lost"


def late_failure(stage: Stage) -> Verdict:
    """A, frozen, loses its job to B; wakes while B runs, and fails. Then B succeeds."""
    missing = _two_runs(
        stage, Act(freeze=True, effect=False, fail=True), Act(effect=False, hold=True)
    )
    if missing is not None:
        return missing
    stage.thaw("A")
    _bounded(stage, lambda: stage.has_ended(1), "A's handler to end")
    stage.watch(SETTLES_S)
    word, runs = stage.words(1)[0], stage.began()
    stage.tell(f"while B runs, the queue says {word}; runs: {runs}")
    stage.let_go(1, 2)
    _bounded(stage, lambda: stage.has_ended(2), "B's handler to end")
    _bounded(stage, stage.has_fate, "the queue to say what became of the job")
    stage.watch(SETTLES_S)
    end, in_all = stage.words(1)[0], stage.began()
    stage.tell(f"after B succeeded, the queue says {end}; runs: {in_all}")
    counts = {"runs": in_all}
    if in_all > 2:
        return Verdict(f"run {in_all} times" + (", two at once" if runs > 2 else ""), False, counts)
    if stage.state(word) != RUNNING:
        return Verdict(f"`{word}` while B ran, then `{end}`", False, counts)
    if stage.state(end) != DONE:
        return Verdict(f"B succeeded, yet `{end}`", False, counts)
    return Verdict("holds", True, counts)


def _two_runs(stage: Stage, first: Act, second: Act) -> Verdict | None:
    """A's run is frozen, and B's held; or a verdict, when B did not get the job."""
    _freeze_a(stage, {"1": first, "2": second, ANY: Act(effect=False)})
    took_s, missing = _recovered(stage, lambda: bool(stage.seen("held", run=2)))
    return Verdict(missing, False, {"recovered_s": round(took_s, 1)}) if missing else None


def _freeze_a(stage: Stage, acts: Mapping[str, Act]) -> None:
    """A runs job 1 and is frozen in it, and B is there to take over. What needs a leader is B's to
    lead: it was there first."""
    stage.plan({"1": acts, ANY: {ANY: WARM_UP}})
    if stage.about["recovery"] == "restart":
        stage.start("A")
        stage.enqueue(1)
    else:
        _bring_up(stage, leaders=("B",), others=("A",))
        _enqueue_past(stage, "B")
    stage.until_seen("freezes", run=1)
    stage.until_frozen("A")
    if "B" in stage.workers:
        stage.thaw("B")
    else:
        stage.start("B", in_place_of="A")


# -- 5: a job that kills its worker


def killing_job(stage: Stage) -> Verdict:
    """The handler kills its own process, every time. The job may run three times in all."""
    stage.plan({ANY: {ANY: Act(effect=False, kill="process")}})
    stage.enqueue(1)
    last, stuck = "", False
    for number in range(1, RUNS_SEEN + 1):
        # A queue whose handlers have processes of their own keeps its worker.
        if not last or stage.workers[last].exit_code is not None:
            name = f"W{number}"
            stage.start(name, in_place_of=last or None)
            last = name
        try:
            stage.until(
                lambda so_far=number: stage.began() >= so_far or _is_over(stage),  # type: ignore[misc]
                f"run {number}, or an end",
                RECOVERED_WITHIN_S / 2,
            )
        except NotWithin as waited:
            stage.tell(str(waited))
            stuck = True
            break
        if stage.began() < number:
            break
        _bounded(stage, lambda so_far=number: len(stage.seen("dies")) >= so_far, "its death")  # type: ignore[misc]
        stage.watch(0.5)  # a worker that lost its handler's process goes on, another one exits
    if not stuck:
        stage.watch(SETTLES_S)
    runs, word = stage.began(), stage.words(1)[0]
    stage.tell(f"after {runs} runs the queue says {word}")
    counts = {"runs": runs, "allowed": MAX_RUNS}
    has_ended = stage.state(word) in (FAILED, DONE)
    if runs > MAX_RUNS:
        going_on = f"then `{word}`" if has_ended or stuck else "and going on"
        return Verdict(f"exceeds: {runs} runs, {going_on}", False, counts)
    if has_ended:
        return Verdict(f"holds: {runs} runs, then `{word}`", True, counts)
    return Verdict(f"stuck: {runs} runs, then `{word}`", False, counts)


def _is_over(stage: Stage) -> bool:
    return stage.has_fate()


# -- 6: a leader that is frozen


def first_frozen(stage: Stage) -> Verdict:
    """Of two workers the first is frozen, and a third dies with a job in its hands."""
    return _frozen(stage, frozen="X", left="Y")


def second_frozen(stage: Stage) -> Verdict:
    """The same, with the second."""
    return _frozen(stage, frozen="Y", left="X")


def _frozen(stage: Stage, *, frozen: str, left: str) -> Verdict:
    stage.plan({"1": {"1": Act(effect=False, kill="worker"), ANY: Act()}, ANY: {ANY: WARM_UP}})
    _bring_up(stage, leaders=("X", "Y"), others=("Z",))
    _enqueue_past(stage, "X", "Y")
    stage.until_seen("dies", run=1)
    stage.until_dead("Z")
    stage.thaw(left)
    took_s, missing = _recovered(stage, lambda: stage.has_ended(2))
    counts = {"recovered_s": round(took_s, 1), "runs": stage.began()}
    if missing:
        return Verdict(f"{missing} with {frozen} frozen", False, counts)
    return Verdict(f"holds: {took_s:.0f} s", True, counts)


# -- 7: the database


def database_restart(stage: Stage) -> Verdict:
    """PostgreSQL crashes and comes back while two workers run a stream of jobs."""
    jobs = range(1, JOBS + 1)
    stage.plan({ANY: {ANY: Act(takes_s=TAKES_S)}})
    stage.enqueue(*jobs)
    for name in ("A", "B"):
        stage.start(name)
    stage.until(lambda: _past_effect(stage) >= CRASHES_AFTER, "the first jobs", 60)
    stage.restart_database()
    exits = 0

    def is_finished() -> bool:
        nonlocal exits
        for name in ("A", "B"):
            if stage.workers[name].exit_code is not None and exits < SUPERVISED_RESTARTS:
                exits += 1
                words = stage.workers[name].last_words().splitlines()[-1:]
                stage.tell(f"{name} exited: {' '.join(words)}")
                stage.start(name)
        if len(stage.ledger()) < JOBS:
            return False
        return all(stage.state(word) in (DONE, FAILED) for word in stage.words(*jobs))

    late = ""
    try:
        took_s = stage.until(is_finished, "every job to be done", FINISHES_WITHIN_S)
    except NotWithin as waited:
        stage.tell(str(waited))
        took_s, late = FINISHES_WITHIN_S, f"not finished in {FINISHES_WITHIN_S:.0f} s"
    stage.watch(SETTLES_S)
    ledger = stage.ledger()
    lost = JOBS - len(ledger)
    repeated = sum(1 for often in ledger.values() if often > 1)
    words = stage.words(*jobs)
    open_ = sum(1 for word in words if stage.state(word) != DONE)
    stage.tell(f"not applied: {lost}; twice: {repeated}; the queue says {dict(Counter(words))}")
    counts = {
        "jobs": JOBS,
        "not_applied": lost,
        "repeated": repeated,
        "not_done": open_,
        "exits": exits,
        "took_s": round(took_s, 1),
    }
    harms = [
        *([f"{repeated} of {JOBS} twice"] if repeated else []),
        *([f"{lost} of {JOBS} not applied"] if lost else []),
        *([f"{open_} of {JOBS} not done"] if open_ and not lost else []),
        *([late] if late and not lost and not open_ else []),
    ]
    if not harms and not exits:
        return Verdict(f"exactly once: {took_s:.0f} s", True, counts)
    harms = harms or ["exactly once"]
    if exits:
        harms += [f"{exits} workers exited"]
    return Verdict(", ".join(harms), False, counts)


def _past_effect(stage: Stage) -> int:
    return sum(1 for line in stage.runs.read_log() if line["what"] == PAST_EFFECT)


# -- what they share


def _bring_up(stage: Stage, *, leaders: Sequence[str], others: Sequence[str]) -> None:
    """Start the workers, and see each of them run a job, so that it is up. The first ones have time
    to agree on a leader before the others come."""
    jobs = count(2)
    warm_up: list[int] = []
    for name in (*leaders, *others):
        stage.start(name)
        for _ in range(WARM_UPS):
            if stage.seen_of(name, "began"):
                break
            some = list(islice(jobs, WARM_UP_JOBS))
            stage.enqueue(*some, told=False)
            warm_up += some
            ended = partial(_have_ended, stage, some)
            stage.until(ended, f"{name} or another to warm up", STARTS_WITHIN_S)
        else:
            raise NotWithin(f"{name} had none of {len(warm_up)} jobs")
        if name == leaders[-1]:
            stage.watch(LEADS_WITHIN_S)
    _bounded(stage, lambda: all(map(stage.has_fate, warm_up)), "the warm-up to be done")


def _have_ended(stage: Stage, jobs: Sequence[int]) -> bool:
    return all(stage.has_ended(1, job=job) for job in jobs)


def _enqueue_past(stage: Stage, *names: str) -> None:
    """Enqueue job 1 so that these workers cannot have it. They are left frozen."""
    stage.freeze(*names)
    stage.watch(LETS_GO_S)
    stage.enqueue(1)


def _recovered(stage: Stage, is_so: Callable[[], bool]) -> tuple[float, str]:
    """How long the job took to be recovered, and what to say when it was not."""
    try:
        return stage.until(is_so, "another worker to have the job", RECOVERED_WITHIN_S), ""
    except NotWithin as waited:
        stage.tell(str(waited))
        return RECOVERED_WITHIN_S, f"not recovered in {RECOVERED_WITHIN_S:.0f} s"


def _bounded(stage: Stage, is_so: Callable[[], bool], what: str) -> None:
    """Wait for it; that it did not come is told, and left to the verdict."""
    try:
        stage.until(is_so, what, ENDS_WITHIN_S)
    except NotWithin as waited:
        stage.tell(str(waited))


SCENARIOS = (
    Scenario("late-effect", "zombie's late effect", (late_effect,)),
    Scenario("late-success", "zombie's late success", (late_success,)),
    Scenario("late-failure", "zombie's late failure", (late_failure,)),
    Scenario("killed-after-effect", "killed after the effect", (killed_after_effect,)),
    Scenario("killing-job", "job that kills its worker", (killing_job,)),
    Scenario("frozen-leader", "frozen leader", (first_frozen, second_frozen)),
    Scenario("database-restart", "database crash", (database_restart,), PATIENT_RUNS),
)

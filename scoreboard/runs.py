"""What a job's handler does, the same in every queue: it plays the act that the scenario wrote for
this run of this job, and tells a log that every process appends to.

It runs in the interpreter of the queue's virtual environment, so it imports the standard library
alone. A queue's module brings the one thing that differs: how the effect is applied.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

LEDGER = "CREATE TABLE ledger (job bigint NOT NULL, run int NOT NULL, worker text NOT NULL)"
INSERT = "INSERT INTO ledger (job, run, worker) VALUES (%s, %s, %s)"
INSERT_ASYNCPG = "INSERT INTO ledger (job, run, worker) VALUES ($1, $2, $3)"

PAUSE_S = 0.02
STOPS_WITHIN_S = 0.2
ANY = "*"
PAST_EFFECT = "is past its effect"


class Boom(Exception):
    """The handler failed, because the scenario says so."""


@dataclass(frozen=True)
class Act:
    """What one run of a job does, in this order."""

    takes_s: float = 0.0
    freeze: bool = False
    """Stop the whole worker with SIGSTOP, just before the effect; wake with SIGCONT."""
    effect: bool = True
    kill: str = ""
    """After the effect, with SIGKILL: "worker", all its processes; "process", the handler's own."""
    hold: bool = False
    """Go on only when the scenario lets it."""
    fail: bool = False


Plan = Mapping[str, Mapping[str, Act]]
"""Acts by the job's number and the run's; `*` for any other."""


class Runs:
    """The folder that the scenario and all workers share: the plan, the log and the gates."""

    def __init__(self, folder: str, worker: str) -> None:
        self.folder = Path(folder)
        self.worker = worker
        self._log = os.open(self.folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write_plan(self, plan: Plan) -> None:
        acts = {job: {run: asdict(act) for run, act in runs.items()} for job, runs in plan.items()}
        (self.folder / "plan").write_text(json.dumps(acts))

    def tell(self, what: str, job: int | None = None, run: int | None = None) -> None:
        # One write, in append mode: lines of several processes never mix.
        line = {"at": time.monotonic(), "worker": self.worker, "what": what, "job": job, "run": run}
        os.write(self._log, json.dumps(line).encode() + b"\n")

    def read_log(self) -> list[dict[str, Any]]:
        # A line is whole once its newline is there.
        whole = (self.folder / "log").read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def gate(self, job: int, run: int) -> Path:
        return self.folder / f"gate-{job}-{run}"

    def begin(self, job: int) -> Run:
        """A run of this job begins. Runs are numbered from 1 over all workers."""
        for run in count(1):
            try:
                (self.folder / f"run-{job}-{run}").touch(exist_ok=False)
            except FileExistsError:
                continue
            break
        plan = json.loads((self.folder / "plan").read_text())
        acts = plan.get(str(job)) or plan[ANY]
        return Run(self, job, run, Act(**(acts.get(str(run)) or acts[ANY])))


@dataclass(frozen=True)
class Run:
    """One run of a job's handler."""

    runs: Runs
    job: int
    number: int
    act: Act

    @property
    def row(self) -> tuple[int, int, str]:
        """What INSERT takes."""
        return self.job, self.number, self.runs.worker

    def tell(self, what: str) -> None:
        self.runs.tell(what, self.job, self.number)

    @contextmanager
    def told(self) -> Iterator[None]:
        self.tell("began")
        try:
            yield
        except BaseException as error:
            self.tell(f"raised {type(error).__name__}")
            raise
        self.tell("returned")

    def reach_effect(self) -> None:
        if self.act.freeze:
            self.tell("freezes")
            asked_s = time.monotonic()
            os.killpg(os.getpgrp(), signal.SIGSTOP)
            # Another thread may be the one that the signal reaches, a moment later. Once woken,
            # this one goes on at once: nobody has time to tell it what it missed.
            while time.monotonic() - asked_s < STOPS_WITHIN_S:
                time.sleep(STOPS_WITHIN_S / 100)

    def leave_effect(self) -> None:
        if self.act.effect:
            self.tell(PAST_EFFECT)
        if self.act.kill:
            self.tell("dies")
            if self.act.kill == "worker":
                os.killpg(os.getpgrp(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(STOPS_WITHIN_S)

    def pauses(self) -> Iterator[float]:
        """How long to sleep, again and again, until the run may go on."""
        if self.act.hold:
            self.tell("held")
            while not self.runs.gate(self.job, self.number).exists():
                yield PAUSE_S
            self.tell("let go")

    def end(self) -> None:
        if self.act.fail:
            raise Boom(f"run {self.number} of job {self.job}")


def perform(run: Run, apply: Callable[[Run], None]) -> None:
    """The handler of a queue whose handlers are functions."""
    with run.told():
        time.sleep(run.act.takes_s)
        run.reach_effect()
        if run.act.effect:
            apply(run)
        run.leave_effect()
        for pause_s in run.pauses():
            time.sleep(pause_s)
        run.end()


async def perform_async(run: Run, apply: Callable[[Run], Awaitable[None]]) -> None:
    """The handler of a queue whose handlers are coroutines."""
    with run.told():
        await asyncio.sleep(run.act.takes_s)
        run.reach_effect()
        if run.act.effect:
            await apply(run)
        run.leave_effect()
        for pause_s in run.pauses():
            await asyncio.sleep(pause_s)
        run.end()

"""The first tutorial, word for word: its file, its commands, a worker killed and one frozen."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "first-job.md"
BOUND_S = 120.0
PROGRAMS = Path(sys.executable).parent
GATE = "while not os.path.exists(f'{os.getpid()} may charge {order_id}'): time.sleep(0.02)"
"""In place of the ten seconds: nothing is committed before the test says so."""


class Terminal:
    """Runs what the page says, with the numbers of the processes that are really there."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            "JOBQ_DATABASE_URL": database_url,
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, command: str) -> str:
        ran = subprocess.run(
            shlex.split(command),
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
        )
        assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    @contextmanager
    def worker(self, command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        with log.open("wb") as output:
            process = subprocess.Popen(
                shlex.split(command),
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=output,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait(BOUND_S)


def wait_for(pattern: str, log: Path) -> None:
    deadline_s = time.monotonic() + BOUND_S
    while re.search(pattern, log.read_text()) is None:
        assert time.monotonic() < deadline_s, f"no {pattern!r} in {log.read_text()}"
        time.sleep(0.05)


def wait_for_all(shown: str, log: Path) -> None:
    """Each line that the page shows, in whatever order the worker's threads write them."""
    for line in filter(None, shown.splitlines()):
        wait_for(as_cut(line), log)


def as_cut(shown: str) -> str:
    """A pattern for what the page shows: "…" stands for anything, and columns may be wider.

    A worker that wakes up is refused by its commit, as on the page, or learns a moment before from
    its heartbeat that its lease is gone.
    """
    pattern = re.sub(r"(?:\\ )+", " +", re.escape(shown)).replace("…", ".*?")
    return re.sub(r"already(_| \+)committed", r"(already\1committed|lease\1lost)", pattern)


def commands_of(page: str) -> list[tuple[str, str]]:
    """The page's commands, each with what is shown of its output."""
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    told = [re.split(r"^\$ ", block, flags=re.MULTILINE)[1:] for block in blocks]
    return [(one.partition("\n")[0], one.partition("\n")[2]) for block in told for one in block]


@pytest.mark.timeout(600)  # a dozen programs are started, one after the other
def test_two_orders_are_charged_once_each(database_url: str, tmp_path: Path) -> None:
    page = PAGE.read_text()
    (listing,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    gated = listing.replace("time.sleep(10)", GATE)
    assert gated != listing
    (tmp_path / "shop.py").write_text(gated)
    script = iter(commands_of(page)[3:])  # those before make an environment, and install jobq
    terminal = Terminal(tmp_path, database_url)
    first, second, third = (tmp_path / f"{name}.log" for name in ("first", "second", "third"))

    def let(process: subprocess.Popen[bytes], order_id: int) -> None:
        (tmp_path / f"{process.pid} may charge {order_id}").touch()

    def command(beginning: str) -> tuple[str, str]:
        said, shown = next(script)
        assert said.startswith(beginning), f"the page goes on with {said!r}"
        return said, shown

    def play(beginning: str) -> None:
        said, shown = command(beginning)
        printed = terminal.run(said)
        assert re.match(as_cut(shown), printed), f"{said}: {printed}"

    assert command("export")[0] == "export JOBQ_DATABASE_URL=sqlite:///shop.db"
    command("jobq upgrade")
    terminal.run("jobq upgrade")
    play("jobq enqueue shop:app")
    said, logged = command("jobq worker")
    with terminal.worker(said, first) as killed:
        wait_for_all(logged.replace("4711", str(killed.pid)), first)
        assert command("kill")[0] == "kill -KILL 4711"
        killed.kill()
        killed.wait(BOUND_S)
        play("jobq jobs show 1")
    said, logged = command("jobq worker")
    with terminal.worker(said, second) as frozen:
        wait_for_all(logged.replace("4712", str(frozen.pid)), second)
        let(frozen, 1)
        for beginning in ("jobq jobs wait 1", "python -c", "jobq jobs show 1"):
            play(beginning)
        play("jobq enqueue shop:app")
        wait_for(f"process {frozen.pid} is charging order 2", second)
        assert command("kill")[0] == "kill -STOP 4712"
        frozen.send_signal(signal.SIGSTOP)
        said, logged = command("jobq worker")
        with terminal.worker(said, third) as other:
            wait_for_all(logged.replace("4713", str(other.pid)), third)
            let(other, 2)
            play("jobq jobs wait 2")
            assert command("kill")[0] == "kill -CONT 4712"
            frozen.send_signal(signal.SIGCONT)
            let(frozen, 2)
            (refused,) = re.findall(r"```text\n… WARNING jobq.worker: (job 2: .*?)\n```", page)
            wait_for(as_cut(refused), second)
    play("python -c")
    play("jobq jobs show 2")
    assert next(script, None) is None
    life = terminal.run("jobq jobs show 2")
    happened = re.findall(r" (enqueued|claimed|expired|committed|refused) ", f"{life} ")
    assert happened[-5:] == ["claimed", "expired", "claimed", "committed", "refused"], life

"""The demo on the terminal: live where there is one, lines where there is none."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from jobq.demo.books import Report
from jobq.demo.run import Progress

STATE_STYLES = {"working": "green", "frozen": "cyan", "killed": "red"}


class Display:
    """Shows progress while the demo runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(40), MofNCompleteColumn(), console=console
        )
        self._bar = self._bars.add_task("charges", total=None)
        self._live = Live(console=console, refresh_per_second=10, transient=True)
        self._told = 0

    def __enter__(self) -> Self:
        if self._console.is_interactive:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._console.is_interactive:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        for event in progress.events[self._told :]:
            self._console.print(Text(event))
        self._told = len(progress.events)
        if self._console.is_interactive:
            self._bars.update(self._bar, total=progress.jobs, completed=progress.charged)
            states = Text("workers  ")
            for worker in progress.workers:
                states.append(f"{worker.name.removeprefix('worker ')} {worker.state}  ")
                states.stylize(STATE_STYLES[worker.state], -len(worker.state) - 2)
            self._live.update(Group(self._bars, states))


def print_report(console: Console, report: Report, *, naive: bool, elapsed_s: float) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2))
    rows = [
        ("jobs", report.jobs, ""),
        ("attempts", report.attempts, ""),
        ("zombies refused", report.refused, "came back after their lease; changed nothing"),
        ("committed, not done: healed", report.healed, "finalized without running again"),
        ("effects applied", report.applied, "rows in the ledger"),
        ("duplicated", report.duplicated, "charged more than once"),
        ("lost", report.lost, "never charged"),
        ("wrong balances", report.wrong_balances, "of the accounts"),
    ]
    must_be_zero = {"duplicated", "lost", "wrong balances"}
    for name, count, meaning in rows:
        style = ("bold red" if count else "bold green") if name in must_be_zero else ""
        table.add_row(name, Text(f"{count:,}", style=style, justify="right"), Text(meaning, "dim"))
    console.print()
    console.print(table)
    console.print()
    queue = "the naive queue" if naive else "jobq"
    verdict = (
        f"Every charge was applied exactly once by {queue}, in {elapsed_s:.0f} s."
        if report.is_exact
        else f"The books of {queue} are wrong: {report.duplicated} duplicated, {report.lost} lost, "
        f"{report.wrong_balances} balances off."
    )
    console.print(Text(verdict, "bold green" if report.is_exact else "bold red"))
    if naive and not report.is_exact:
        console.print("Run `jobq demo` without --naive for the same with the commit record.")

"""`jobq doctor`."""

from __future__ import annotations

import sys

import click

from jobq import JobQueue
from jobq.cli.operator import as_json, plain, print_json, with_queue
from jobq.doctor import Finding, Level, examine

MARKS = {
    Level.OK: ("ok", "green"),
    Level.WARNING: ("warning", "yellow"),
    Level.FAILURE: ("FAILURE", "red"),
}


@click.command()
@click.option("--strict", is_flag=True, help="Exit code 1 for warnings, too.")
@as_json
@with_queue
def doctor(queue: JobQueue, strict: bool, as_json: bool) -> None:
    """Look for what endangers the promise: settings, clocks, poolers, old transactions, and rows
    that break an invariant.

    A line for each check, with the remedy where one is needed. It changes nothing. The invariants
    read all of jobq's tables: some seconds for a million jobs. Exit code 1 for a failure.
    """
    findings = []
    for finding in examine(queue):
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        print_json(plain(findings))
    levels = {finding.level for finding in findings}
    sys.exit(Level.FAILURE in levels or (strict and Level.WARNING in levels))


def _print(finding: Finding) -> None:
    word, colour = MARKS[finding.level]
    told = " ".join(finding.message.split())
    click.echo(f"{click.style(f'{word:8}', fg=colour)} {finding.check}: {told}")
    if finding.remedy is not None:
        click.echo(f"{'':8} -> {finding.remedy}")

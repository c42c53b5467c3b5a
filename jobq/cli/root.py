"""The command group, its lazily imported subcommands, and how errors are told."""

from __future__ import annotations

import importlib
import os
from importlib.metadata import version

import click

# Name: the module that has it, and what --help says, so that help imports nothing.
COMMANDS = {
    "upgrade": ("jobq.cli.schema", "Create or upgrade jobq's tables."),
    "downgrade": ("jobq.cli.schema", "Take jobq's tables back, or away."),
    "check": ("jobq.cli.schema", "Tell whether the database is ready for this version."),
    "dashboard": ("jobq.cli.dashboard", "Serve the dashboard."),
    "doctor": ("jobq.cli.doctor", "Look for what endangers the promise, and for broken rows."),
    "roles": ("jobq.cli.roles", "Database roles that may do no more than they need."),
    "worker": ("jobq.cli.worker", "Run jobs until stopped."),
    "enqueue": ("jobq.cli.enqueue", "Enqueue a job."),
    "jobs": ("jobq.cli.jobs", "Look at jobs; retry, cancel or wait for them."),
    "dead": ("jobq.cli.dead", "Look at dead jobs, and have them run again."),
    "queues": ("jobq.cli.queues", "Look at queues, pause and resume them."),
    "schedules": ("jobq.cli.queues", "Look at periodic jobs; run, pause and resume them."),
    "workers": ("jobq.cli.queues", "List the workers."),
    "audit": ("jobq.cli.queues", "List what was done by hand."),
    "reconcile": ("jobq.cli.enqueue", "Recover expired leases now."),
    "metrics": ("jobq.cli.metrics", "Serve Prometheus metrics of the queue."),
    "prune": ("jobq.cli.prune", "Delete ended jobs that were kept for their time."),
    "fm": ("jobq.cli.fm", "List the failure modes, and play them live."),
    "bench": ("jobq.cli.bench", "Measure jobq on your database, in a minute."),
    "demo": ("jobq.cli.demo", "Charge 500 accounts while workers are killed and frozen."),
    "completion": ("jobq.cli.completion", "Print a script that completes commands."),
}


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """A jobq error is one sentence that names cause and remedy: show that, no traceback."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            from jobq.errors import JobqError  # not needed for --help

            if isinstance(error, JobqError):
                # libpq's reasons have several lines.
                raise click.ClickException(" ".join(str(error).split())) from error
            raise


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("jobq"), prog_name="jobq")
@click.pass_context
def main(context: click.Context) -> None:
    """A job queue on PostgreSQL and SQLite whose effects happen exactly once.

    The database is named by --database-url or JOBQ_DATABASE_URL.
    """
    if os.environ.get("NO_COLOR"):
        context.color = False

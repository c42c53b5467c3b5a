"""`jobq completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes jobq's commands and options.

    For bash: eval "$(jobq completion bash)" in ~/.bashrc; for fish: jobq completion fish | source
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "jobq", "_JOBQ_COMPLETE").source())

"""`jobq dashboard`."""

from __future__ import annotations

import ipaddress
import os
from importlib.util import find_spec
from pathlib import Path

import click

from jobq import JobQueue
from jobq.cli import options
from jobq.errors import InvalidOption, MissingExtra

TOKEN_VARIABLE = "JOBQ_DASHBOARD_TOKEN"


@click.command()
@options.database_url
@options.schema
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65_535))
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Whoever has the token in it may see and do everything.  [or env: {TOKEN_VARIABLE}]",
)
@click.option("--hide-arguments", is_flag=True, help="Show no arguments, results, or errors.")
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A name under which it may be asked for. May be repeated.  [default: any, with a token]",
)
def dashboard(
    database_url: str | None,
    schema: str,
    host: str,
    port: int,
    token_file: Path | None,
    hide_arguments: bool,
    allowed_hosts: tuple[str, ...],
) -> None:
    """Serve the dashboard: jobs, queues, schedules, workers, and whether the promise is kept.

    Without a token it is read-only, and served to this machine alone.
    """
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise MissingExtra("jobq dashboard", "web")
    import uvicorn

    from jobq.dashboard import create_dashboard

    token = os.environ.get(TOKEN_VARIABLE) or None
    if token_file is not None:
        token = token_file.read_text().strip()
    if token is None and not _is_loopback(host):
        raise InvalidOption(
            f"--host {host}: without a token anybody there could read the jobs: pass --token-file, "
            f"or set {TOKEN_VARIABLE}"
        )
    if token is None and not allowed_hosts:
        # A page elsewhere could point its own name here, and read what only this machine may.
        allowed_hosts = ("127.0.0.1", "localhost", "[::1]", host)
    queue = JobQueue(database_url, schema=schema)
    queue.database.check()  # what is wrong with it is told now
    app = create_dashboard(
        queue,
        token=token,
        show_arguments=not hide_arguments,
        allowed_hosts=allowed_hosts or None,
    )
    click.echo(f"http://{host}:{port}/ shows {queue.url!r}" + ("" if token else ", read-only"))
    uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""`jobq bench`."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict

import click

from jobq.benchmark import Measured, Sizes, measure
from jobq.cli import options
from jobq.throwaway import server_of


@click.command()
@options.database_url
@click.option(
    "--concurrency", default=10, show_default=True, type=click.IntRange(1), help="Handlers at once."
)
@click.option(
    "--scale",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.001),
    help="More jobs than 20,000, 5,000 effects and 100 pick-ups, or fewer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON, nothing else.")
def bench(database_url: str | None, concurrency: int, scale: float, as_json: bool) -> None:
    """Measure what jobq does on a database: jobs and effects per second, and how soon.

    One worker in this process, with real commits. Without a database URL a throwaway PostgreSQL is
    started. With one, the schema jobq_bench is made there (or, on SQLite, the file named) and
    removed afterwards.

    Exit code 0 only when every effect was applied exactly once.
    """
    wanted = Sizes()
    sizes = Sizes(*(max(2, round(each * scale)) for each in asdict(wanted).values()))
    told = threading.Lock()
    with (
        server_of(database_url) as url,
        click.progressbar(
            length=sizes.total,
            label="measuring",
            file=sys.stderr,
            update_min_steps=100,
            hidden=not sys.stderr.isatty(),
        ) as bar,
    ):

        def progress(jobs: int) -> None:
            with told:
                bar.update(jobs)

        measured = measure(url, progress, sizes, concurrency)
    if as_json:
        click.echo(json.dumps({**asdict(sizes), "concurrency": concurrency, **asdict(measured)}))
    else:
        click.echo(_table(measured, sizes, concurrency))
    sys.exit(1 if measured.effects_lost or measured.effects_duplicated else 0)


def _table(measured: Measured, sizes: Sizes, concurrency: int) -> str:
    rows = [
        ("enqueue, all at once", f"{measured.enqueue_per_s:,.0f} jobs/s", f"{sizes.drain:,} jobs"),
        (
            "drain, jobs that do nothing",
            f"{measured.drain_per_s:,.0f} jobs/s",
            f"{sizes.drain:,} jobs, {concurrency} at once",
        ),
        (
            "drain, one transactional effect each",
            f"{measured.effects_per_s:,.0f} jobs/s",
            f"{sizes.effects:,} jobs, {concurrency} at once; {measured.effects_lost} lost, "
            f"{measured.effects_duplicated} duplicated",
        ),
        (
            "pick-up by an idle worker",
            f"{measured.latency_p50_ms:.1f} ms",
            f"p50 of {sizes.latency}; p99 {measured.latency_p99_ms:.1f} ms",
        ),
    ]
    return "\n".join(f"{name:38}{value:>16}   {of}" for name, value, of in rows)

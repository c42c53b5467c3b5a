"""Exploring many spaces, on as many processes as there are processors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

import psycopg
from sqlalchemy.engine import make_url

from jobq import schema
from tests.explorer.explorer import Explorer, Report, Weaken
from tests.explorer.mutations import MUTATIONS, Mutation
from tests.explorer.scenes import Space, spaces
from tests.explorer.stage import open_stage


@dataclass(frozen=True, slots=True)
class Explored:
    space: str
    report: Report


def explore(
    url: str,
    space: Space,
    *,
    faults: int,
    weaken: Weaken = lambda store: store,
    ddl: str = "",
    stops_at: int | None = None,
) -> Report:
    """Explore one space on a migrated database of its own."""

    async def run() -> Report:
        async with open_stage(url, len(space.roles)) as stage:
            if ddl:
                await stage.sql(ddl)
            explorer = Explorer(stage, weaken, weakens_scene=bool(ddl))
            return await explorer.explore(space, faults=faults, stops_at=stops_at)

    return asyncio.run(run())


def explore_mutation(url: str, mutation: Mutation) -> Report:
    """Explore the space where it must be caught, up to the first finding."""
    return explore(
        url,
        space_named(mutation.caught_in),
        faults=mutation.faults,
        weaken=mutation.weaken,
        ddl=mutation.ddl,
        stops_at=1,
    )


def explore_all(
    server_url: str, chosen: Sequence[Space], *, faults: int, processes: int
) -> Iterator[Explored]:
    """Explore the spaces, each as soon as a process is free for it."""
    own_database = (server_url,)
    with ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=_begin_process, initargs=own_database
    ) as pool:
        running = [pool.submit(_explore_named, str(space), faults) for space in chosen]
        for done in as_completed(running):
            yield done.result()


def explore_mutations(server_url: str) -> Iterator[tuple[Mutation, Report]]:
    for number, mutation in enumerate(MUTATIONS):
        url = make_database(server_url, f"jobq_mutation_{number}")
        yield mutation, explore_mutation(url, mutation)


def space_named(name: str) -> Space:
    """Raises LookupError."""
    for actors in (1, 2, 3):
        for space in spaces(actors):
            if str(space) == name:
                return space
    raise LookupError(f"there is no space {name!r}")


def make_database(server_url: str, name: str) -> str:
    """Make (or make again) a migrated database; return its URL."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = make_url(server_url).set(database=name).render_as_string(hide_password=False)
    schema.upgrade(url)
    return url


_database_url = ""
"""Of this process's own database."""


def _begin_process(server_url: str) -> None:
    global _database_url
    _database_url = make_database(server_url, f"jobq_explorer_{os.getpid()}")


def _explore_named(name: str, faults: int) -> Explored:
    report = explore(_database_url, space_named(name), faults=faults)
    report.ends.clear()  # there are many, and nobody asked
    return Explored(name, report)

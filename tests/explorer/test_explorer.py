"""Every interleaving of every fourth pair of actors; of each alone, with a crash or a lost answer
at every cut. `python -m tests.explorer` has all pairs, with the faults among two as well."""

from __future__ import annotations

import asyncio

import pytest

from jobq.failure_modes.weakened import by
from tests.explorer import mutations
from tests.explorer.explorer import Explorer, Report
from tests.explorer.run import explore, space_named
from tests.explorer.scenes import SCENES, spaces
from tests.explorer.stage import open_stage

pytestmark = pytest.mark.timeout(600)


PARTS = 3
"""Each scene's spaces are shared out to so many tests, for as many processes."""


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("scene", [scene.name for scene in SCENES])
def test_no_schedule_of_two_actors_breaks_an_invariant(
    scene: str, part: int, postgres_url: str
) -> None:
    total = Report()
    alone, pairs = ([one for one in spaces(n) if one.scene.name == scene] for n in (1, 2))
    share = [*alone, *pairs[::4]][part::PARTS]
    for space in share:
        total.add(explore(postgres_url, space, faults=int(len(space.roles) == 1)))

    assert total.shortest is None, f"the shortest of {len(total.findings)}:\n{total.shortest}"
    assert total.schedules >= len(share) > 0, "there was something to explore"


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("held: A releases | A beats", 1),
        ("leased: A runs | reconciler", 0),
        ("leased: reconciler | canceller", 0),
    ],
)
def test_schedules_that_meet_end_in_the_same_ways(
    name: str, faults: int, postgres_url: str
) -> None:
    """Going on from a moment only once hides no end: without that, the same ones are found."""
    space = space_named(name)
    merged, unmerged = asyncio.run(_explore_twice(postgres_url, name, faults=faults, merges=False))

    assert merged.ends == unmerged.ends
    assert merged.schedules < unmerged.schedules
    assert len(merged.ends) >= 3, f"{space} ends in several ways"


def test_a_dropped_connection_ends_like_a_rollback(postgres_url: str) -> None:
    """A crash is played as a ROLLBACK; here the connection is really dropped, at every cut."""
    rolled_back, dropped = asyncio.run(
        _explore_twice(postgres_url, "leased: reconciler | canceller", faults=1, drops=True)
    )
    assert rolled_back.ends == dropped.ends
    assert rolled_back.schedules == dropped.schedules


def test_a_finding_can_be_replayed(postgres_url: str) -> None:
    space = space_named("leased: A runs | reconciler")
    weaken = by(mutations.RescueBlind)

    async def run() -> None:
        async with open_stage(postgres_url, 2) as stage:
            report = await Explorer(stage, weaken).explore(space, faults=0)
            assert report.shortest is not None
            again = await Explorer(stage, weaken).replay(space, report.shortest.schedule)
            assert again is not None
            assert (again.what, again.moves) == (report.shortest.what, report.shortest.moves)
            assert await Explorer(stage).replay(space, report.shortest.schedule) is None

    asyncio.run(run())


async def _explore_twice(
    url: str, name: str, *, faults: int, merges: bool = True, drops: bool = False
) -> tuple[Report, Report]:
    """As it is done otherwise, and in the given way."""
    space = space_named(name)
    async with open_stage(url, len(space.roles)) as stage:
        usual = await Explorer(stage).explore(space, faults=faults)
        given = Explorer(stage, merges=merges, drops=drops)
        return usual, await given.explore(space, faults=faults)

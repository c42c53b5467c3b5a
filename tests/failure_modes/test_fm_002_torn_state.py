"""FM_002: a crash between two writes of one step leaves half of it behind.

To claim a job is to take it out of the line and to write its lease; to fail is to remove the lease
and to put the job back; an effect is written beside its record. Where each write is a transaction
of its own (autocommit, or an ORM that commits as it goes) a crash between the two leaves a job in
no place, which nobody looks for, or a record without its effect, which nobody applies any more.

The fix is that a step is one transaction (I2, I5), and on PostgreSQL almost always one statement.
Here every step is crashed after every one of its statements, and the queue must then bring each job
to its end.
"""

from __future__ import annotations

import pytest

from jobq.failure_modes.fm_002_torn_state import STEPS, TABLE_BY_TABLE, play, reproduce
from jobq.failure_modes.shop import Shop

NO_PLACE = "every job is in exactly one place"
NO_EFFECT = "no commit record is written without its effect"


def test_reproduces_jobs_that_are_half_written(shop: Shop) -> None:
    found = reproduce(shop)

    assert found.is_harmed
    assert {"torn": [NO_PLACE], "lost": [1]} in numbered(found.seen["claim"]), "in no place"
    assert any(cut["torn"] for cut in found.seen["fail"])
    assert any(cut["lost"] for cut in found.seen["cancel"]), "neither cancelled nor in line"
    assert [NO_EFFECT] in [cut["torn"] for cut in found.seen["effect"]], "never charged"


def test_prevented_after_every_statement_of_every_step(shop: Shop) -> None:
    found = play(shop)

    assert not found.is_harmed
    assert set(found.seen) == set(STEPS)
    for cuts in found.seen.values():
        assert cuts
        assert all(cut == {"torn": [], "lost": []} for cut in cuts)


def test_it_is_the_transaction_that_prevents_it(postgres_shop: Shop) -> None:
    """Not how few the statements are: one for every table does as well, in one transaction."""
    assert not play(postgres_shop, TABLE_BY_TABLE).is_harmed


@pytest.mark.parametrize("step", ["effect", "cancel", "reconcile"])
def test_more_than_one_statement_is_really_crashed(shop: Shop, step: str) -> None:
    assert len(play(shop, {step: STEPS[step]}).seen[step]) >= 3


def numbered(cuts: list[dict[str, list[object]]]) -> list[dict[str, list[object]]]:
    """The lost jobs without their ids, which differ from one scene to the next."""
    return [{**cut, "lost": [1 for _ in cut["lost"]]} for cut in cuts]

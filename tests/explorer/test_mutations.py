"""The explorer can fail: with any one guard taken away, it finds a schedule that breaks jobq."""

from __future__ import annotations

import pytest

from tests.explorer.mutations import MUTATIONS, Mutation
from tests.explorer.run import explore_mutation


def test_there_is_one_for_every_guard() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 25


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_missing_guard_is_found_out(mutation: Mutation, postgres_url: str) -> None:
    assert explore_mutation(postgres_url, mutation).findings, mutation.caught_in

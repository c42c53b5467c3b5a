"""The claim cursor: it spares the way, and hides nothing for longer than it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobq.protocol.cursor import HIDDEN_S, SHARE, ClaimCursor
from jobq.protocol.values import ClaimedJob, Lease, Position

DUE = datetime(2026, 1, 1, tzinfo=UTC)


def claimed(job_id: int, queue: str = "default", priority: int = 0) -> ClaimedJob:
    due_at = DUE + timedelta(seconds=job_id)
    return ClaimedJob(
        Lease(job_id, 1), queue, "task", "{}", priority, due_at, 1, 5, uuid4(), due_at, due_at
    )


def position(job_id: int, priority: int = 0) -> Position:
    return Position(priority, DUE + timedelta(seconds=job_id), job_id)


def test_the_first_claim_looks_from_the_head() -> None:
    assert ClaimCursor().since(0.0) == {}


def test_the_next_claim_begins_where_the_last_one_ended_in_each_queue() -> None:
    cursor = ClaimCursor()
    cursor.advance([claimed(1), claimed(2), claimed(7, "mail", 3)], 0.0, 0.1)
    assert cursor.since(0.2) == {"default": position(2), "mail": position(7, 3)}

    cursor.advance([claimed(3)], 0.2, 0.3)
    assert cursor.since(0.3) == {"default": position(3), "mail": position(7, 3)}


def test_nothing_claimed_leaves_the_cursor_where_it_was() -> None:
    cursor = ClaimCursor()
    cursor.advance([claimed(1)], 0.0, 0.1)
    cursor.advance([], 0.2, 0.3)
    assert cursor.since(0.3) == {"default": position(1)}


def test_a_cheap_look_from_the_head_is_soon_taken_again() -> None:
    cursor = ClaimCursor()
    cursor.advance([claimed(1)], 0.0, 0.001)
    assert not cursor.is_at_head(0.009)
    assert cursor.is_at_head(0.0101)


def test_how_long_a_worker_waits_that_found_nothing_further_on() -> None:
    cursor = ClaimCursor()
    assert cursor.until_head_s(3.0) == 0.0
    cursor.advance([claimed(1)], 100.0, 100.05)
    assert cursor.until_head_s(100.25) == pytest.approx(0.25)
    assert cursor.until_head_s(200.0) == 0.0


def test_a_claim_that_is_to_look_from_the_head_has_no_positions() -> None:
    cursor = ClaimCursor()
    cursor.advance([claimed(1)], 0.0, 0.1)
    assert cursor.since(5.0) == {}


def test_the_share_is_of_the_time_that_the_look_took() -> None:
    cursor = ClaimCursor()
    cursor.advance([claimed(1)], 100.0, 100.1)
    assert not cursor.is_at_head(100.99)
    assert cursor.is_at_head(101.01)


def test_a_look_from_the_head_forgets_the_positions() -> None:
    cursor = ClaimCursor()
    cursor.advance([claimed(1), claimed(2, "mail")], 0.0, 0.5)
    cursor.advance([claimed(1)], 5.0, 5.5)
    assert cursor.since(5.6) == {"default": position(1)}


@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3)), min_size=1, max_size=30),
)
def test_no_place_in_line_is_passed_over_for_longer_than_the_bound(
    claims: list[tuple[float, float]],
) -> None:
    """However long the claims take and the pauses between them: from the end of one look from the
    head the next that begins after the bound is one too, and between them at most the share of the
    time, or the bound, was spent on the way."""
    cursor, now_s, seen_s = ClaimCursor(), 0.0, None
    for pause_s, took_s in claims:
        now_s += pause_s
        if seen_s is not None and now_s >= seen_s + HIDDEN_S:
            assert cursor.is_at_head(now_s)
        is_at_head = cursor.is_at_head(now_s)
        cursor.advance([claimed(1)], now_s, now_s + took_s)
        if is_at_head:
            assert not cursor.is_at_head(now_s + took_s) or took_s * (1 / SHARE - 1) < 1e-12
        now_s += took_s
        seen_s = now_s if is_at_head else seen_s

"""The last hour, put together from what was known and what was asked anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from jobq.protocol.states import State
from jobq.protocol.views import Minute, Recent

NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
UNKNOWN = (None, None)


def asked(at: datetime, minutes: int, enqueued: int) -> Recent:
    """As the store answers: so many whole minutes, and the one that has begun."""
    first = at.replace(second=0) - timedelta(minutes=minutes)
    return Recent(
        at,
        {State.READY: enqueued},
        [
            Minute(first + timedelta(minutes=number), enqueued, 0, 0, 0, UNKNOWN, UNKNOWN)
            for number in range(minutes + 1)
        ],
    )


def test_what_is_asked_anew_takes_the_place_of_what_was_known() -> None:
    known = asked(NOON + timedelta(seconds=10), 60, enqueued=1)
    anew = asked(NOON + timedelta(minutes=2, seconds=5), 6, enqueued=2)

    joined = anew.following(known)

    assert (joined.at, joined.counts) == (anew.at, anew.counts)
    assert [minute.at for minute in joined.minutes] == [
        NOON + timedelta(minutes=number) for number in range(-58, 3)
    ]
    assert [minute.enqueued for minute in joined.minutes] == 54 * [1] + 7 * [2]


def test_what_was_asked_whole_stays_whole() -> None:
    known = asked(NOON, 60, enqueued=1)
    anew = asked(NOON + timedelta(hours=3), 60, enqueued=2)

    assert anew.following(known) == anew

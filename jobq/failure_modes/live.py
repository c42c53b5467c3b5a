"""The failure modes, played for a user: the naive variant beside jobq."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import URL

from jobq.errors import InvalidDatabaseURL
from jobq.failure_modes.catalogue import FailureMode, Scenario
from jobq.failure_modes.grounds import NotHere, fresh_shop

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one failure mode; None where it could not be played on this database."""

    mode: FailureMode
    reproduced: bool | None
    prevented: bool | None
    harm: str
    """What was seen on the variant without the guard."""
    instead: str
    """What was seen on jobq."""

    @property
    def is_as_claimed(self) -> bool:
        return self.reproduced is not False and self.prevented is not False

    def as_dict(self) -> dict[str, object]:
        said = [("without the guard", self.harm), ("jobq", self.instead)]
        return {
            "id": self.mode.id,
            "title": self.mode.title,
            "reproduced": self.reproduced,
            "prevented": self.prevented,
            "detail": "; ".join(f"{who}: {what}" for who, what in said if what),
        }


def play(modes: Sequence[FailureMode], url: URL) -> Iterator[Result]:
    """Play each failure mode on both sides, in order. Raises InvalidDatabaseURL."""
    for mode in modes:
        try:
            reproduced, harm = _play_one(mode, mode.reproduce, url)
            is_harmed, instead = _play_one(mode, mode.prevent, url)
        except NotHere as reason:
            yield Result(mode, None, None, f"not played here: {reason}", "")
        else:
            prevented = None if is_harmed is None else not is_harmed
            # A scenario that broke down shows nothing, on either side.
            yield Result(mode, bool(reproduced), bool(prevented), harm, instead)


def _play_one(mode: FailureMode, scenario: Scenario, url: URL) -> tuple[bool | None, str]:
    try:
        with fresh_shop(url, mode) as shop:
            found = scenario(shop)
    except (NotHere, InvalidDatabaseURL):
        raise
    except Exception as error:  # one that breaks down must not keep the others from being seen
        logger.exception("%s broke down", mode.id)
        return None, f"broke down: {type(error).__name__}: {error}"
    return found.is_harmed, found.detail

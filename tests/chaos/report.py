"""The figures of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.chaos.books import Books
from tests.chaos.checker import Violation
from tests.chaos.history import Answer, Op, Operation


@dataclass(frozen=True, slots=True)
class Report:
    seed: int
    seconds: float
    jobs: int
    attempts: int
    """Handlers started."""
    fates: Mapping[str, int]
    effects: int
    duplicates: int
    """Effects beyond one for each job."""
    faults: Mapping[str, int]
    unknown: Mapping[str, int]
    """Operations whose caller never learned what became of them."""
    refused: int
    """Attempts that came too late, and changed nothing."""
    healed: int
    """Committed, and finalized by another worker without running again."""
    worker_exits: int
    """Workers that ended without anybody's doing."""
    drained_s: float | None
    """Seconds from the last fault until nothing was left to do; None when that never came."""
    violations: Mapping[str, int]
    folder: str | None
    """Where the histories are, when they were kept."""

    @property
    def is_clean(self) -> bool:
        return not self.violations

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lines = []
        for name, value in self.as_dict().items():
            told = (
                ", ".join(f"{key} {count}" for key, count in value.items()) or "none"
                if isinstance(value, dict)
                else f"{value:.1f}"
                if isinstance(value, float)
                else value
            )
            lines.append(f"{name:>14}  {told}")
        return "\n".join(lines)


def fates(books: Books) -> dict[str, int]:
    return dict(sorted(Counter(record.outcome for record in books.records).items()))


def refused(history: Iterable[Operation], books: Books) -> int:
    told = {(one.job, one.token) for one in history if one.answer is Answer.REFUSED}
    return len(told | {(row.job, row.token) for row in books.refusals})


def unknown(history: Sequence[Operation]) -> dict[str, int]:
    """Answers that were lost, and those that a killed process did not live to see."""
    asked: Counter[Op] = Counter()
    answered: Counter[Op] = Counter()
    for one in history:
        if one.op in (Op.ENQUEUE, Op.CANCEL):
            if one.answer is Answer.NONE:
                asked[one.op] += 1
            elif one.answer is not Answer.UNKNOWN:
                answered[one.op] += 1
    begun = {(one.job, one.token) for one in history if one.op is Op.EFFECT}
    told = {
        (one.job, one.token)
        for one in history
        if one.op is Op.COMMIT and one.answer is not Answer.UNKNOWN
    }
    return {
        "enqueue": asked[Op.ENQUEUE] - answered[Op.ENQUEUE],
        "commit": len(begun - told),
        "cancel": asked[Op.CANCEL] - answered[Op.CANCEL],
    }


def by_invariant(violations: Iterable[Violation]) -> dict[str, int]:
    return dict(sorted(Counter(violation.invariant for violation in violations).items()))

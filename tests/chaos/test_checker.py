"""The checker, checked: a clean story passes, and each doctored one is caught as what it is.

The clean story has every kind of job in it, and every doctored one differs from it in one fact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.books import (
    AttemptRow,
    Books,
    JobRow,
    LedgerRow,
    Place,
    RecordRow,
    RefusalRow,
)
from tests.chaos.checker import RULES, check
from tests.chaos.history import SUFFIX, Answer, History, Op, Operation, read_histories

DIRECT, RETRIED, DEAD, CANCELLED, QUIET, ZOMBIE = range(1, 7)
"""The clean story's jobs: committed at once; after a failure; dead; cancelled; without an effect;
and one whose first attempt came back after its lease."""


def ran(job: int, token: int, attempt: int) -> list[Operation]:
    return [
        Operation(op, job=job, token=token, attempt=attempt)
        for op in (Op.CLAIM, Op.START, Op.EFFECT)
    ]


def commit(job: int, token: int, answer: Answer, fate: str = "") -> Operation:
    return Operation(Op.COMMIT, answer, job=job, token=token, fate=fate)


def enqueue(answer: Answer, *jobs: int) -> Operation:
    known = jobs if answer is Answer.ACKNOWLEDGED else ()
    return Operation(Op.ENQUEUE, answer, keys=tuple(f"k{job}" for job in jobs), jobs=known)


HISTORY = [
    enqueue(Answer.NONE, DIRECT, RETRIED),
    enqueue(Answer.ACKNOWLEDGED, DIRECT, RETRIED),
    enqueue(Answer.ACKNOWLEDGED, DEAD, CANCELLED, QUIET),
    enqueue(Answer.UNKNOWN, ZOMBIE, 70),
    enqueue(Answer.FAILED, 71),
    *ran(DIRECT, 1, 1),
    commit(DIRECT, 1, Answer.ACKNOWLEDGED),
    *ran(RETRIED, 1, 1),
    commit(RETRIED, 1, Answer.FAILED),
    # Given back unstarted by a worker that stopped: the number stays, the token grows.
    Operation(Op.CLAIM, job=RETRIED, token=2, attempt=2),
    *ran(RETRIED, 3, 2),
    commit(RETRIED, 3, Answer.UNKNOWN),
    *ran(DEAD, 1, 1),
    *ran(DEAD, 2, 2),
    *ran(CANCELLED, 1, 1),
    Operation(Op.CANCEL, Answer.TRUE, job=CANCELLED),
    commit(CANCELLED, 1, Answer.REFUSED, "cancelled"),
    *ran(QUIET, 1, 1)[:2],
    Operation(Op.CANCEL, Answer.FALSE, job=QUIET),
    *ran(ZOMBIE, 1, 1),
    *ran(ZOMBIE, 2, 2),
    commit(ZOMBIE, 2, Answer.ACKNOWLEDGED),
    commit(ZOMBIE, 1, Answer.REFUSED, "committed"),
    Operation(Op.CANCEL, Answer.UNKNOWN, job=ZOMBIE),
]

BOOKS = Books(
    jobs=[
        JobRow(job, f"k{job}", "notify" if job == QUIET else "charge", max_attempts=2)
        for job in range(1, 7)
    ],
    records=[
        RecordRow(DIRECT, "committed", 1),
        RecordRow(RETRIED, "committed", 3),
        RecordRow(DEAD, "dead", 2),
        RecordRow(CANCELLED, "cancelled", 1),
        RecordRow(QUIET, "committed", 1),
        RecordRow(ZOMBIE, "committed", 2),
    ],
    attempts=[
        AttemptRow(RETRIED, 1, 1, "failed"),
        AttemptRow(RETRIED, 3, 2, "healed"),
        AttemptRow(DEAD, 1, 1, "expired"),
        AttemptRow(DEAD, 2, 2, "failed"),
        AttemptRow(ZOMBIE, 1, 1, "expired"),
    ],
    refusals=[
        RefusalRow(CANCELLED, 1, "commit", "already_cancelled"),
        RefusalRow(ZOMBIE, 1, "commit", "already_committed"),
    ],
    ledger=[LedgerRow(DIRECT, 1, 1), LedgerRow(RETRIED, 3, 2), LedgerRow(ZOMBIE, 2, 2)],
)

Doctor = Callable[[list[Operation], Books], tuple[list[Operation], Books]]


def saw(*operations: Operation) -> Doctor:
    """Somebody says that this happened too."""
    return lambda history, books: ([*history, *operations], books)


def never_saw(*operations: Operation) -> Doctor:
    return lambda history, books: ([one for one in history if one not in operations], books)


def added(table: str, *rows: Any) -> Doctor:
    return lambda history, books: (
        history,
        replace(books, **{table: [*getattr(books, table), *rows]}),
    )


def removed(table: str, *rows: Any) -> Doctor:
    def doctor(history: list[Operation], books: Books) -> tuple[list[Operation], Books]:
        left = [row for row in getattr(books, table) if row not in rows]
        assert len(left) == len(getattr(books, table)) - len(rows), "the rows are not there"
        return history, replace(books, **{table: left})

    return doctor


def changed(table: str, row: Any, **facts: Any) -> Doctor:
    def doctor(history: list[Operation], books: Books) -> tuple[list[Operation], Books]:
        return added(table, replace(row, **facts))(*removed(table, row)(history, books))

    return doctor


DOCTORED = [
    ("I1", DIRECT, "two records", added("records", RecordRow(DIRECT, "committed", 1))),
    ("I2", DIRECT, "applied twice", added("ledger", LedgerRow(DIRECT, 1, 1))),
    ("I2", DEAD, "effect of a dead job", added("ledger", LedgerRow(DEAD, 2, 2))),
    (
        "I2",
        DIRECT,
        "effect of another token",
        changed("ledger", LedgerRow(DIRECT, 1, 1), token=7),
    ),
    ("I2", DIRECT, "record without effect", removed("ledger", LedgerRow(DIRECT, 1, 1))),
    (
        "I2",
        DEAD,
        "acknowledged and not recorded",
        saw(commit(DEAD, 2, Answer.ACKNOWLEDGED)),
    ),
    ("I2", RETRIED, "failed and recorded", saw(commit(RETRIED, 3, Answer.FAILED))),
    ("I3", DEAD, "nowhere, no record", removed("records", RecordRow(DEAD, "dead", 2))),
    ("I4", ZOMBIE, "a zombie's effect", added("ledger", LedgerRow(ZOMBIE, 1, 1))),
    ("I4", RETRIED, "refused and recorded", saw(commit(RETRIED, 3, Answer.REFUSED))),
    (
        "I4",
        DIRECT,
        "audited as refused",
        added("refusals", RefusalRow(DIRECT, 1, "commit", "lease_lost")),
    ),
    ("I4", DIRECT, "expired and applied", added("attempts", AttemptRow(DIRECT, 1, 1, "expired"))),
    ("I5", DIRECT, "ready again", added("places", Place("ready", DIRECT, 1))),
    ("I5", 99, "a record of no job", added("records", RecordRow(99, "dead", 1))),
    ("I6", DIRECT, "never finalized", added("places", Place("leases", DIRECT, 1))),
    ("I6", DIRECT, "lost", removed("jobs", JobRow(DIRECT, "k1", "charge", 2))),
    ("I6", 8, "rolled back, and there", added("jobs", JobRow(8, "k71", "charge", 2))),
    ("I6", ZOMBIE, "enqueued twice", added("jobs", JobRow(8, "k6", "charge", 2))),
    ("I6", 8, "nobody's", added("jobs", JobRow(8, "k8", "charge", 2))),
    ("I7", DEAD, "a third start", saw(Operation(Op.START, job=DEAD, token=3, attempt=2))),
    ("I7", DEAD, "a third attempt", added("attempts", AttemptRow(DEAD, 3, 3, "failed"))),
    ("I7", DEAD, "dead too early", removed("attempts", AttemptRow(DEAD, 1, 1, "expired"))),
    (
        "I8",
        RETRIED,
        "a token given twice",
        saw(Operation(Op.CLAIM, job=RETRIED, token=3, attempt=2)),
    ),
    (
        "I8",
        DEAD,
        "tokens that shrink",
        saw(Operation(Op.CLAIM, job=DEAD, token=3, attempt=1)),
    ),
    (
        "I8",
        DIRECT,
        "one attempt, two tokens",
        saw(Operation(Op.START, job=DIRECT, token=2, attempt=1)),
    ),
    (
        "I8",
        QUIET,
        "a token nobody was given",
        never_saw(Operation(Op.START, job=QUIET, token=1, attempt=1)),
    ),
    (
        "I9",
        CANCELLED,
        "cancelled becomes dead",
        changed("records", RecordRow(CANCELLED, "cancelled", 1), outcome="dead"),
    ),
    ("I9", CANCELLED, "cancelled, and applied", added("ledger", LedgerRow(CANCELLED, 1, 1))),
    (
        "I9",
        ZOMBIE,
        "refused for another fate",
        saw(commit(ZOMBIE, 1, Answer.REFUSED, "cancelled")),
    ),
    (
        "I9",
        ZOMBIE,
        "audited with another fate",
        added("refusals", RefusalRow(ZOMBIE, 1, "fail", "already_dead")),
    ),
    (
        "I9",
        QUIET,
        "cancel came too late for nothing",
        removed("records", RecordRow(QUIET, "committed", 1)),
    ),
    (
        "I9",
        DIRECT,
        "claimed after its fate",
        saw(Operation(Op.CLAIM, job=DIRECT, token=2, attempt=2)),
    ),
    ("I10", ZOMBIE, "two winners", saw(commit(ZOMBIE, 1, Answer.ACKNOWLEDGED))),
    ("I10", DIRECT, "a canceller won too", saw(Operation(Op.CANCEL, Answer.TRUE, job=DIRECT))),
]


def test_a_clean_story_passes() -> None:
    assert check(HISTORY, BOOKS, effectless=["notify"]) == []


@pytest.mark.parametrize(
    ("invariant", "job", "doctor"),
    [pytest.param(*case[:2], case[3], id=f"{case[0]} {case[2]}") for case in DOCTORED],
)
def test_a_doctored_story_is_caught(invariant: str, job: int, doctor: Doctor) -> None:
    history, books = doctor(HISTORY, BOOKS)
    found = check(history, books, effectless=["notify"])
    assert (invariant, job) in {(one.invariant, one.job) for one in found}, found


def test_every_invariant_has_a_doctored_story() -> None:
    assert len(RULES) == 10
    assert {case[0] for case in DOCTORED} == {f"I{number}" for number in range(1, 11)}


def test_a_violation_shows_the_lines_that_broke_it(tmp_path: Path) -> None:
    worker = History(tmp_path, "worker")
    worker.write(Op.COMMIT, Answer.ACKNOWLEDGED, job=1, token=5)
    worker.close()
    violations = check([*HISTORY, *read_histories(tmp_path)], BOOKS, effectless=["notify"])
    (found,) = [one for one in violations if one.invariant == "I2"]
    assert f"{worker.path.name}:1 " in str(found)
    assert "commit answer=acknowledged job=1 token=5" in str(found)


def test_a_line_cut_short_by_a_kill_is_no_operation(tmp_path: Path) -> None:
    history = History(tmp_path, "client")
    history.write(Op.ENQUEUE, keys=["k1"])
    history.write(Op.ENQUEUE, Answer.ACKNOWLEDGED, keys=["k1"], jobs=[1])
    history.close()
    whole = history.path.read_bytes()
    history.path.write_bytes(whole[:-5])
    (operation,) = read_histories(tmp_path)
    assert (operation.answer, operation.keys) == (Answer.NONE, ("k1",))
    assert operation.source == f"{history.path.name}:1"
    assert history.path.name.endswith(SUFFIX)

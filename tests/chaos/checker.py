"""Decides I1 to I10 from what the processes saw and what the database holds in the end.

In the manner of Jepsen and Elle: the histories say what was promised to whom, the books say what
is so, and each rule names a way in which the two cannot both be true of a correct queue. An
operation without an answer, or with an unknown one, promises nothing. What is decided here rests on
ids and tokens alone, never on times, which no two processes need agree about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.chaos.books import AttemptRow, Books, RecordRow
from tests.chaos.evidence import Evidence
from tests.chaos.history import Answer, Op, Operation


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, and the operations that show it."""

    invariant: str
    job: int | None
    what: str
    operations: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        told = "".join(f"\n      {operation}" for operation in self.operations)
        return f"{self.invariant} job {self.job}: {self.what}{told}"


Rule = Callable[[Evidence], Iterator[Violation]]


def check(
    history: Iterable[Operation],
    books: Books,
    *,
    effectless: Iterable[str] = (),
    is_at_rest: bool = True,
) -> list[Violation]:
    """Return every violation.

    `effectless`: tasks that write nothing to the ledger. `is_at_rest`: whether all work is over,
    so that every job must have its fate.
    """
    evidence = Evidence(history, books, effectless=effectless)
    rules = RULES if is_at_rest else [rule for rule in RULES if rule not in AT_REST]
    return [violation for rule in rules for violation in rule(evidence)]


def one_record(evidence: Evidence) -> Iterator[Violation]:
    """I1: at most one commit record per job."""
    records: dict[int, list[RecordRow]] = defaultdict(list)
    for record in evidence.books.records:
        records[record.job].append(record)
    for job, found in records.items():
        if len(found) > 1:
            yield Violation("I1", job, f"has {len(found)} records", evidence.everything(job))


def effect_iff_record(evidence: Evidence) -> Iterator[Violation]:
    """I2: the effect is in the database if and only if the record is, and as it was answered."""
    for job, tokens in evidence.applied.items():
        if len(tokens) > 1:
            told = tuple(one for token in tokens for one in evidence.at(job, token))
            yield Violation("I2", job, f"its effect was applied {len(tokens)} times", told)
        for token in tokens:
            if not evidence.is_committed(job, token):
                record = evidence.records.get(job)
                yield Violation(
                    "I2", job, f"effect of token {token}, record {record}", evidence.at(job, token)
                )
    for record in evidence.books.records:
        if record.outcome != "committed" or _is_effectless(evidence, record.job):
            continue
        if record.token not in evidence.applied.get(record.job, []):
            told = evidence.at(record.job, record.token)
            yield Violation("I2", record.job, f"{record} without its effect", told)
    for job in evidence.operations:
        for commit in evidence.of(job, Op.COMMIT):
            is_there = commit.token is not None and evidence.is_committed(job, commit.token)
            if commit.answer is Answer.ACKNOWLEDGED and not is_there:
                record = evidence.records.get(job)
                yield Violation("I2", job, f"a commit was acknowledged, record {record}", (commit,))
            entered = [one for one in evidence.of(job, Op.EFFECT) if one.token == commit.token]
            # Of several entries of one attempt, another than this one may have committed.
            if commit.answer is Answer.FAILED and is_there and len(entered) <= 1:
                yield Violation("I2", job, "a commit failed, and its record is there", (commit,))


def done_has_record(evidence: Evidence) -> Iterator[Violation]:
    """I3: a job that is in no place any more has a record."""
    placed = {place.job for place in evidence.books.places}
    for job in evidence.jobs.keys() - placed - evidence.records.keys():
        told = evidence.everything(job)
        yield Violation("I3", job, "is in no place and has no record", told)


def refused_changes_nothing(evidence: Evidence) -> Iterator[Violation]:
    """I4: an attempt whose lease is gone changes nothing."""
    # Whoever is refused because the job is committed may have committed it before: a handler that
    # enters the boundary twice. And a failure that is refused says nothing of a commit.
    gone = {
        (job, operation.token): f"was refused {operation.fate}".strip()
        for job in evidence.operations
        for operation in evidence.of(job, Op.COMMIT, Answer.REFUSED)
        if operation.fate != "committed"
    }
    gone |= {
        (row.job, row.token): f"is audited as {row}"
        for row in evidence.books.refusals
        if row.stage == "commit" and row.reason != "already_committed"
    }
    gone |= {
        (row.job, row.token): f"ended as {row.outcome}"
        for row in evidence.books.attempts
        if row.outcome != "healed"
    }
    for (job, token), why in gone.items():
        if token is None:
            continue
        if token in evidence.applied.get(job, []) or evidence.is_committed(job, token):
            what = f"token {token} {why}, and its effect or record is there"
            yield Violation("I4", job, what, evidence.at(job, token))


def one_place(evidence: Evidence) -> Iterator[Violation]:
    """I5: every job is in exactly one place; lease and record together are one."""
    places: dict[int, list[str]] = defaultdict(list)
    for place in evidence.books.places:
        if not (place.table == "leases" and place.job in evidence.records):
            places[place.job].append(place.table)
    for job in evidence.records:
        places[job].append("commit_records")
    for job, tables in places.items():
        if len(tables) > 1:
            yield Violation("I5", job, f"is in {tables}", evidence.everything(job))
        if job not in evidence.jobs:
            yield Violation("I5", job, f"is in {tables} and not in jobs", evidence.everything(job))


def acknowledged_reaches_fate(evidence: Evidence) -> Iterator[Violation]:
    """I6: an acknowledged job exists and has its fate; one that was rolled back never was."""
    by_key: dict[str, list[int]] = defaultdict(list)
    for row in evidence.books.jobs:
        by_key[row.key].append(row.id)
    asked: dict[str, Operation] = {}
    for enqueue in evidence.enqueues:
        asked |= dict.fromkeys(enqueue.keys, enqueue)
        if enqueue.answer is Answer.FAILED:
            for key in enqueue.keys:
                for job in by_key.get(key, []):
                    yield Violation("I6", job, f"{key} was rolled back and exists", (enqueue,))
        if enqueue.answer is Answer.ACKNOWLEDGED:
            for key, job in zip(enqueue.keys, enqueue.jobs, strict=True):
                if job not in evidence.jobs or evidence.jobs[job].key != key:
                    yield Violation("I6", job, f"{key} was acknowledged and lost", (enqueue,))
    for key, jobs in by_key.items():
        if len(jobs) > 1 or key not in asked:
            what = f"{key!r} was enqueued as {jobs}" if key in asked else f"nobody asked for {key}"
            told = (asked[key],) if key in asked else ()
            yield Violation("I6", jobs[0], what, told)
    for place in evidence.books.places:
        what = f"has not come to its end: it is in {place.table}, token {place.token}"
        yield Violation("I6", place.job, what, evidence.everything(place.job))


def attempts_are_bounded(evidence: Evidence) -> Iterator[Violation]:
    """I7: attempts never exceed max_attempts, and a job is not dead before they are spent."""
    for job, row in evidence.jobs.items():
        starts = evidence.of(job, Op.START)
        ended = evidence.attempts.get(job, [])
        limit = row.max_attempts
        if len(starts) > limit:
            yield Violation("I7", job, f"{len(starts)} starts, limit {limit}", tuple(starts))
        highest = max(_numbered(starts, ended), default=0)
        if len(ended) > limit or highest > limit:
            what = f"{len(ended)} ended attempts, numbers up to {highest}, limit {limit}"
            yield Violation("I7", job, what, tuple(starts))
        record = evidence.records.get(job)
        if record is not None and record.outcome == "dead" and len(ended) < limit:
            what = f"is dead after {len(ended)} of {limit} attempts"
            yield Violation("I7", job, what, evidence.everything(job))


def tokens_grow(evidence: Evidence) -> Iterator[Violation]:
    """I8: the tokens of a job only grow; one names one attempt, and a record one that was given."""
    for job in evidence.jobs:
        claims, starts = evidence.of(job, Op.CLAIM), evidence.of(job, Op.START)
        ended = evidence.attempts.get(job, [])
        for given in (claims, starts):
            for one, other in pairwise(sorted(given, key=_token)):
                if one.token == other.token:
                    yield Violation("I8", job, f"token {one.token} given twice", (one, other))
        # A claim that was given back unstarted keeps its number; a start has spent it.
        for numbered in (_numbered(starts, ended), _numbered(claims)):
            for (number, tokens), (later, later_tokens) in pairwise(sorted(numbered.items())):
                if max(tokens) >= min(later_tokens):
                    what = f"attempt {number} has {tokens}, attempt {later} has {later_tokens}"
                    yield Violation("I8", job, what, (*claims, *starts))
        for number, tokens in _numbered(starts, ended).items():
            if len(tokens) > 1:
                what = f"attempt {number} ran with tokens {tokens}"
                yield Violation("I8", job, what, tuple(starts))
        record = evidence.records.get(job)
        if record is None:
            continue
        started = {_token(one) for one in starts}
        in_table = {row.token for row in ended}
        known = {
            "committed": started,
            "dead": in_table,
            "cancelled": {_token(one) for one in claims} | in_table | {0},
        }[record.outcome]
        if record.token not in known:
            what = f"{record} has a token nobody was given"
            yield Violation("I8", job, what, evidence.everything(job))


def fate_is_final(evidence: Evidence) -> Iterator[Violation]:
    """I9: no fate is ever replaced, and nobody is given the job after it."""
    for job in evidence.operations.keys() | evidence.attempts.keys():
        record = evidence.records.get(job)
        for operation in evidence.operations.get(job, []):
            seen = _fate_seen(operation)
            if seen and (record is None or record.outcome != seen):
                yield Violation("I9", job, f"was seen {seen}, record {record}", (operation,))
            if operation.op is Op.CANCEL and operation.answer is Answer.FALSE and record is None:
                yield Violation("I9", job, "its fate was sealed and is not there", (operation,))
        if evidence.of(job, Op.CANCEL, Answer.TRUE) and evidence.applied.get(job):
            what = "was cancelled, and its effect is there"
            yield Violation("I9", job, what, evidence.everything(job))
        given = {_token(claim) for claim in evidence.of(job, Op.CLAIM)}
        given |= {row.token for row in evidence.attempts.get(job, [])}
        for token in sorted(given):
            if record is not None and token > record.token:
                what = f"token {token} was given after {record}"
                yield Violation("I9", job, what, evidence.at(job, token))
    for refusal in evidence.books.refusals:
        seen = refusal.reason.removeprefix("already_")
        record = evidence.records.get(refusal.job)
        if seen != "lease_lost" and (record is None or record.outcome != seen):
            told = evidence.at(refusal.job, refusal.token)
            yield Violation("I9", refusal.job, f"{refusal}, record {record}", told)


def one_winner(evidence: Evidence) -> Iterator[Violation]:
    """I10: keys are unique. The one key that jobq has today is a job's fate: one winner."""
    for job in evidence.operations:
        # An attempt may be told twice: its report is repeated when the first answer was lost.
        commits = {one.token: one for one in evidence.of(job, Op.COMMIT, Answer.ACKNOWLEDGED)}
        won = [*commits.values(), *evidence.of(job, Op.CANCEL, Answer.TRUE)]
        if len(won) > 1:
            yield Violation("I10", job, f"{len(won)} were told that they decided it", tuple(won))


RULES: tuple[Rule, ...] = (
    one_record,
    effect_iff_record,
    done_has_record,
    refused_changes_nothing,
    one_place,
    acknowledged_reaches_fate,
    attempts_are_bounded,
    tokens_grow,
    fate_is_final,
    one_winner,
)

AT_REST: tuple[Rule, ...] = (acknowledged_reaches_fate,)
"""What can be decided only when all work is over."""


def _is_effectless(evidence: Evidence, job: int) -> bool:
    return job in evidence.jobs and evidence.jobs[job].task in evidence.effectless


def _numbered(
    operations: Sequence[Operation], ended: Sequence[AttemptRow] = ()
) -> dict[int, list[int]]:
    """Tokens by the number of their attempt."""
    given = [(one.attempt, one.token) for one in operations]
    given += [(row.attempt, row.token) for row in ended]
    tokens: dict[int, set[int]] = defaultdict(set)
    for number, token in given:
        if number is not None and token is not None:
            tokens[number].add(token)
    return {number: sorted(found) for number, found in tokens.items()}


def _token(operation: Operation) -> int:
    return operation.token or 0


def _fate_seen(operation: Operation) -> str:
    """The fate that an answer vouches for."""
    if operation.op is Op.COMMIT and operation.answer is Answer.ACKNOWLEDGED:
        return "committed"
    if operation.op is Op.COMMIT and operation.answer is Answer.REFUSED:
        return operation.fate
    if operation.op is Op.CANCEL and operation.answer is Answer.TRUE:
        return "cancelled"
    if operation.op is Op.HEARTBEAT:
        return operation.fate
    return ""

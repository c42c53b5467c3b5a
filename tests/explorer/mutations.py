"""The protocol with one guard missing, once for every guard.

An explorer that finds nothing shows something only if it would have found it. Each mutation is
caught in the space that it names (tests/explorer/test_mutations.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobq.errors import LeaseLost
from jobq.failure_modes.weakened import by
from jobq.protocol.decisions import EXPIRED, ending_of, recovered
from jobq.protocol.states import AttemptEnd
from jobq.protocol.values import (
    FailedAttempt,
    Lease,
    LeasedAttempt,
    Record,
    Recorded,
    Recovered,
    RefusedReport,
    Reported,
)
from jobq.store import postgres
from jobq.store.base import RetryDelay
from jobq.store.postgres import PostgresStore
from jobq.store.step import Statement, Step
from tests.explorer.explorer import Weaken


@dataclass(frozen=True, slots=True)
class Mutation:
    name: str
    """The guard that is missing."""
    weaken: Weaken
    caught_in: str
    """A space where a schedule breaks an invariant."""
    faults: int = 0
    """How many faults that schedule needs."""
    ddl: str = ""
    """What is done to the schema."""


def rewritten(*changes: tuple[str, str, str]) -> Weaken:
    """Return the store with statements changed: (constant of jobq.store.postgres, old, new)."""
    by_text: dict[str, str] = {}
    for name, old, new in changes:
        original: str = getattr(postgres, name)
        assert old in original, f"{name} has changed: it has no {old!r}"
        by_text[original] = by_text.get(original, original).replace(old, new)

    class Rewritten(PostgresStore):
        def _statement(self, template: str, **params: object) -> Statement:
            return super()._statement(by_text.get(template, template), **params)

    return by(Rewritten)


FENCE = "AND token = named.token"
LEASE_OF_COMMIT = """
SELECT shard, job_id, 'committed', token, clock_timestamp(), worker, due_at, acquired_at
FROM {schema}.leases
WHERE shard = %(shard)s AND job_id = %(job_id)s AND token = %(token)s
FOR KEY SHARE
"""
BARE_RECORD = """
VALUES (%(shard)s, %(job_id)s, 'committed', %(token)s, clock_timestamp(), NULL, NULL, NULL)
"""
UNIQUE = "ON CONFLICT (shard, job_id) DO NOTHING"
OVERWRITE = """ON CONFLICT (shard, job_id) DO UPDATE
SET outcome = excluded.outcome, token = excluded.token"""


class ConflictIgnored:
    """Neither the insert's count is looked at, nor the question asked whose record is there."""

    def _insert_record(self, lease: Lease) -> Step[Recorded | None]:
        recorded = yield from super()._insert_record(lease)  # type: ignore[misc]
        return recorded or Recorded(lease, transaction=0)

    def confirm_record(self, recorded: Recorded) -> Step[bool]:
        yield from super().confirm_record(recorded)  # type: ignore[misc]
        return True


class LeaseFirstRecordLast:
    """The order of a queue that checks its lease, works, and marks the job as done."""

    def commit_record(self, lease: Lease) -> Step[Recorded]:
        if lease not in (yield from self._held([lease])):  # type: ignore[attr-defined]
            raise LeaseLost(lease.job_id, lease.token)
        return Recorded(lease, transaction=0)

    def confirm_record(self, recorded: Recorded) -> Step[bool]:
        lease = recorded.lease
        bare = postgres.COMMIT_RECORD.replace(LEASE_OF_COMMIT, BARE_RECORD)
        rows = yield self._statement(bare, job_id=lease.job_id, token=lease.token)  # type: ignore[attr-defined]
        return bool(rows)


class RescueByOneStatement:
    """The rescue that waits for the lease's lock with a NOT EXISTS beside it."""

    def reconcile(self, limit: int, retry_delay: RetryDelay) -> Step[Recovered]:
        expired = yield from self._lock_expired(limit)  # type: ignore[attr-defined]
        return (yield from _retry_all(self, expired, {}, retry_delay))

    def _statement(self, template: str, **params: object) -> Statement:
        if template == postgres.LOCK_EXPIRED:
            template = template.replace(" SKIP LOCKED", "").replace(
                "ORDER BY",
                """AND NOT EXISTS (
                    SELECT FROM {schema}.commit_records AS record
                    WHERE record.shard = leases.shard AND record.job_id = leases.job_id)
                ORDER BY""",
            )
        return super()._statement(template, **params)  # type: ignore[misc, no-any-return]


class RescueBlind:
    """The rescue that does not ask for a record."""

    def reconcile(self, limit: int, retry_delay: RetryDelay) -> Step[Recovered]:
        expired = yield from self._lock_expired(limit)  # type: ignore[attr-defined]
        return (yield from _retry_all(self, expired, {}, retry_delay))


class RescueLooksFirst:
    """The rescue that looks for the records, and then locks."""

    def reconcile(self, limit: int, retry_delay: RetryDelay) -> Step[Recovered]:
        look = postgres.LOCK_EXPIRED.replace("FOR UPDATE SKIP LOCKED", "")
        rows = yield self._statement(look, limit=limit)  # type: ignore[attr-defined]
        seen = [Lease(row[0], row[1]) for row in rows]
        records = yield from self._records(seen)  # type: ignore[attr-defined]
        expired = yield from self._lock_expired(limit)  # type: ignore[attr-defined]
        return (yield from _retry_all(self, expired, records, retry_delay))


def _retry_all(
    store: Any, expired: Sequence[LeasedAttempt], records: dict[int, Record], delay: RetryDelay
) -> Step[Recovered]:
    endings = [
        ending_of(
            attempt,
            records.get(attempt.lease.job_id),
            end=AttemptEnd.EXPIRED,
            error=EXPIRED,
            retry_delay_s=delay(attempt),
        )
        for attempt in expired
    ]
    yield from store._end(endings)
    return recovered(endings)


class FailBlind:
    """A failure that is reported without a look for the record."""

    def fail(self, failures: Sequence[FailedAttempt]) -> Step[Reported]:
        locked = yield from self._lock([one.lease for one in failures], skip_locked=True)  # type: ignore[attr-defined]
        yield from _fail_all(self, locked, {}, failures)
        return Reported((), frozenset())


class FailLooksFirst:
    def fail(self, failures: Sequence[FailedAttempt]) -> Step[Reported]:
        leases = [one.lease for one in failures]
        records = yield from self._records(leases)  # type: ignore[attr-defined]
        locked = yield from self._lock(leases, skip_locked=True)  # type: ignore[attr-defined]
        yield from _fail_all(self, locked, records, failures)
        return Reported((), frozenset())


def _fail_all(
    store: Any,
    locked: Sequence[LeasedAttempt],
    records: dict[int, Record],
    failures: Sequence[FailedAttempt],
) -> Step[None]:
    by_lease = {one.lease: one for one in failures}
    yield from store._end(
        [
            ending_of(
                attempt,
                records.get(attempt.lease.job_id),
                end=by_lease[attempt.lease].end,
                error=by_lease[attempt.lease].error,
                retry_delay_s=by_lease[attempt.lease].retry_delay_s,
            )
            for attempt in locked
        ]
    )


class BuriedForGood:
    """A dead job's lease is removed, and its fate written nowhere."""

    def _statement(self, template: str, **params: object) -> Statement:
        if template == postgres.END_ATTEMPTS:
            template = template.replace("FROM held WHERE is_dead", "FROM held WHERE false")
        return super()._statement(template, **params)  # type: ignore[misc, no-any-return]


class SettleGuesses:
    answer = True

    def settle(self, lease: Lease) -> Step[bool]:
        yield from self._records([lease])  # type: ignore[attr-defined]
        return self.answer


class SettleGuessesNo(SettleGuesses):
    answer = False


class SettleByToken:
    """Any record with the attempt's token is taken for its commit."""

    def settle(self, lease: Lease) -> Step[bool]:
        yield from self._lock([lease])  # type: ignore[attr-defined]
        record = (yield from self._records([lease])).get(lease.job_id)  # type: ignore[attr-defined]
        return record is not None and record.token == lease.token


class CompleteByToken:
    """The same mistake where a group is completed."""

    def refusals(self, unrecorded: Sequence[Lease]) -> Step[list[RefusedReport]]:
        refused: list[RefusedReport] = yield from super().refusals(unrecorded)  # type: ignore[misc]
        return [one for one in refused if one.record is None or one.record.token != one.lease.token]


class CancelTakesNoPlace:
    """The fate is recorded while the job stays where it is."""

    def _hold_place(self, job_id: int) -> Step[int | None]:
        lease = postgres.SHARE_LEASE.replace("FOR KEY SHARE", "")
        rows = yield self._statement(lease, job_id=job_id)  # type: ignore[attr-defined]
        return int(rows[0][0]) if rows else 0


class CancelRecordsFirst:
    """The record before the place: the other way round than everybody else."""

    def cancel(self, job_id: int) -> Step[bool]:
        if (yield from self._has_fate(job_id)):  # type: ignore[attr-defined]
            return False
        is_cancelled: bool = yield from self._insert_cancelled(Lease(job_id, 0))  # type: ignore[attr-defined]
        if is_cancelled:
            yield from self._hold_place(job_id)  # type: ignore[attr-defined]
        return is_cancelled


class CancelBelieved:
    """Whoever cancels is told that he did."""

    def _insert_cancelled(self, lease: Lease) -> Step[bool]:
        yield from super()._insert_cancelled(lease)  # type: ignore[misc]
        return True


MUTATIONS = (
    Mutation(
        "the record is joined to no lease",
        rewritten(("COMMIT_RECORD", LEASE_OF_COMMIT, BARE_RECORD)),
        "zombie: A runs | B runs",
    ),
    Mutation(
        "the record is joined to any lease of the job",
        rewritten(
            ("COMMIT_RECORD", " AND token = %(token)s", ""),
            ("COMMIT_RECORD", "'committed', token", "'committed', %(token)s"),
        ),
        "zombie: A runs | B runs",
    ),
    Mutation(
        "the joined lease is not locked",
        rewritten(("COMMIT_RECORD", "FOR KEY SHARE", "")),
        "leased: A runs | reconciler",
    ),
    Mutation(
        "the record is not unique",
        rewritten(
            ("COMMIT_RECORD", UNIQUE, ""),
            ("EXCHANGE", UNIQUE, ""),
            ("RECORD_CANCELLED", UNIQUE, ""),
        ),
        "leased: A runs | A runs",
        ddl="ALTER TABLE jobq.commit_records DROP CONSTRAINT commit_records_pkey",
    ),
    Mutation("a conflict of records is ignored", by(ConflictIgnored), "leased: A runs | A runs"),
    Mutation(
        "a later record replaces an earlier one",
        rewritten(("COMMIT_RECORD", UNIQUE, OVERWRITE)),
        "leased: A runs | canceller",
    ),
    Mutation(
        "the lease is checked first, and the record written last",
        by(LeaseFirstRecordLast),
        "leased: A runs | reconciler",
    ),
    Mutation(
        "the rescue waits for the lock, and asks for the record in the same statement",
        by(RescueByOneStatement),
        "leased: A runs | reconciler",
    ),
    Mutation("the rescue asks for no record", by(RescueBlind), "leased: A runs | reconciler"),
    Mutation(
        "the rescue asks for the record before it has the lock",
        by(RescueLooksFirst),
        "leased: A runs | reconciler",
    ),
    Mutation(
        "the rescue locks nothing",
        rewritten(("LOCK_EXPIRED", "FOR UPDATE SKIP LOCKED", "")),
        "leased: A runs | reconciler",
    ),
    Mutation(
        "the rescue takes live leases",
        rewritten(("LOCK_EXPIRED", "AND lease_expires_at <= statement_timestamp()", "")),
        "held: A runs | reconciler of the living",
    ),
    Mutation("a failure asks for no record", by(FailBlind), "leased: A runs | A fails"),
    Mutation(
        "a failure asks for the record before it has the lock",
        by(FailLooksFirst),
        "leased: A runs | A fails",
    ),
    Mutation(
        "a failure locks nothing",
        rewritten(("LOCK_LEASES_FREE", "FOR UPDATE SKIP LOCKED", "")),
        "leased: A runs | A fails",
    ),
    Mutation(
        "a failure ends whatever lease the job has",
        rewritten(
            ("LOCK_LEASES_FREE", FENCE, ""),
            ("LOCK_LEASES_FREE", "lease.token,", "named.token,"),
            ("END_ATTEMPTS", "AND token = ending.token", ""),
        ),
        "zombie: A fails | B runs",
    ),
    Mutation(
        "a lease is finalized without a record",
        rewritten(
            (
                "EXCHANGE",
                """EXISTS (
                  SELECT FROM {schema}.commit_records AS record
                  WHERE record.shard = %(shard)s AND record.job_id = ended.job_id)""",
                "true",
            )
        ),
        "leased: A finalizes | canceller",
    ),
    Mutation(
        "attempts are counted when they fail, not when they are claimed",
        rewritten(
            (
                "END_ATTEMPTS",
                "           attempts_spent, token",
                "           attempts_spent - (outcome = 'expired')::int, token",
            )
        ),
        "leased: worker | reconciler",
    ),
    Mutation(
        "a claim gives the token that was given before",
        rewritten(("EXCHANGE", "token + 1, attempts", "greatest(token, 1), attempts")),
        "taken back: promoter | worker",
    ),
    Mutation(
        "a claim leaves the job where it was",
        rewritten(
            ("EXCHANGE", "DELETE FROM {schema}.ready\n", "SELECT * FROM {schema}.ready\n"),
            ("EXCHANGE", "    RETURNING job_id, priority, due_at, attempts, token\n", ""),
        ),
        "ready: worker | worker",
    ),
    Mutation(
        "a promotion leaves the job where it was",
        rewritten(
            ("PROMOTE", "DELETE FROM {schema}.scheduled\n", "SELECT * FROM {schema}.scheduled\n"),
            ("PROMOTE", "    RETURNING job_id, run_at, attempts, token\n", ""),
        ),
        "taken back: promoter | worker",
    ),
    Mutation(
        "a cancelled job is given back",
        rewritten(
            (
                "RELEASE",
                """AND NOT EXISTS (SELECT FROM {schema}.commit_records AS record
                          WHERE record.shard = %(shard)s AND record.job_id = held.job_id)""",
                "",
            )
        ),
        "leased: A releases | canceller",
    ),
    Mutation(
        "whatever lease the job has is given back",
        rewritten(
            ("LOCK_LEASES", FENCE, ""),
            ("LOCK_LEASES", "lease.token,", "named.token,"),
            ("RELEASE", FENCE, ""),
        ),
        "zombie: A releases | B runs",
    ),
    Mutation(
        "a heartbeat extends whatever lease the job has",
        rewritten(("EXTEND", FENCE, "")),
        "zombie: A beats | B runs",
    ),
    Mutation(
        "a group is completed without its leases",
        rewritten(
            (
                "EXCHANGE",
                "clock_timestamp(), worker, due_at, acquired_at\n    FROM held",
                "clock_timestamp(), NULL, NULL, NULL\n    FROM ended",
            ),
        ),
        "leased, no effect: A runs | reconciler",
    ),
    Mutation(
        "a group is completed without a lock on its leases",
        rewritten(("EXCHANGE", "        FOR UPDATE) AS lease", ") AS lease")),
        "leased, no effect: A runs | reconciler",
    ),
    Mutation(
        "a lost answer to COMMIT is taken for a yes",
        by(SettleGuesses),
        "leased: A runs | worker",
        faults=1,
    ),
    Mutation(
        "a lost answer to COMMIT is taken for a no",
        by(SettleGuessesNo),
        "leased: A runs | worker",
        faults=1,
    ),
    Mutation(
        "a cancelled attempt's record is taken for its commit",
        by(SettleByToken),
        "leased: A runs | canceller",
        faults=1,
    ),
    Mutation(
        "a cancelled attempt's record is taken for its completion",
        by(CompleteByToken),
        "leased, no effect: A runs | canceller",
    ),
    Mutation(
        "a burial records no fate", by(BuriedForGood), "leased, last attempt: worker | reconciler"
    ),
    Mutation(
        "a cancel replaces the fate",
        rewritten(("RECORD_CANCELLED", UNIQUE, OVERWRITE)),
        "leased: A runs | canceller",
    ),
    Mutation("a cancel believes itself", by(CancelBelieved), "leased: A runs | canceller"),
    Mutation("a cancel takes no place", by(CancelTakesNoPlace), "ready: worker | canceller"),
    Mutation(
        "a cancel does not lock the lease",
        rewritten(("SHARE_LEASE", "FOR KEY SHARE", "")),
        "leased: reconciler | canceller",
    ),
    Mutation(
        "a cancel leaves the job in line",
        rewritten(
            ("UNREADY", "DELETE FROM", "SELECT token FROM"),
            ("UNREADY", "RETURNING token", ""),
        ),
        "ready: worker | canceller",
    ),
    Mutation(
        "a cancel leaves the job waiting for its time",
        rewritten(
            ("UNSCHEDULE", "DELETE FROM", "SELECT token FROM"),
            ("UNSCHEDULE", " RETURNING token", ""),
        ),
        "taken back: promoter | canceller",
    ),
    Mutation(
        "a cancel records the fate before it holds the place",
        by(CancelRecordsFirst),
        "leased, last attempt: reconciler | canceller",
    ),
)

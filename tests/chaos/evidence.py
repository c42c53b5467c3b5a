"""What the checker decides from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from tests.chaos.books import AttemptRow, Books, RecordRow
from tests.chaos.history import Answer, Op, Operation


class Evidence:
    """Histories and books, by job."""

    def __init__(
        self, history: Iterable[Operation], books: Books, *, effectless: Iterable[str] = ()
    ) -> None:
        self.books = books
        self.effectless = frozenset(effectless)
        self.jobs = {job.id: job for job in books.jobs}
        self.enqueues: list[Operation] = []
        self.operations: dict[int, list[Operation]] = defaultdict(list)
        for operation in history:
            if operation.op is Op.ENQUEUE:
                self.enqueues.append(operation)
            elif operation.job is not None:
                self.operations[operation.job].append(operation)
        self.records: dict[int, RecordRow] = {record.job: record for record in books.records}
        self.attempts: dict[int, list[AttemptRow]] = defaultdict(list)
        for attempt in books.attempts:
            self.attempts[attempt.job].append(attempt)
        self.applied: dict[int, list[int]] = defaultdict(list)
        for row in books.ledger:
            self.applied[row.job].append(row.token)

    def of(self, job: int, op: Op, answer: Answer | None = None) -> list[Operation]:
        return [
            operation
            for operation in self.operations.get(job, [])
            if operation.op is op and answer in (None, operation.answer)
        ]

    def at(self, job: int, token: int) -> tuple[Operation, ...]:
        """What one attempt said of itself."""
        return tuple(one for one in self.operations.get(job, []) if one.token == token)

    def everything(self, job: int) -> tuple[Operation, ...]:
        return tuple(self.operations.get(job, []))

    def is_committed(self, job: int, token: int) -> bool:
        return self.records.get(job) == RecordRow(job, "committed", token)

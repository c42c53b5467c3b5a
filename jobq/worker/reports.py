"""What a worker has to tell the database about its attempts, gathered until the next cycle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from jobq.protocol.values import FailedAttempt, Lease, RefusedReport
from jobq.store.base import Store
from jobq.store.step import Step


@dataclass(frozen=True, slots=True)
class Committed:
    """The effect and its record are committed; the lease is to be finalized."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler had no effect in this database and returned: record and finalize."""

    lease: Lease


Report = Committed | Returned | FailedAttempt | RefusedReport


@dataclass(slots=True)
class Reports:
    """Reports not yet taken by the database. Each may be sent again: they are fenced by token."""

    committed: list[Lease] = field(default_factory=list)
    returned: list[Lease] = field(default_factory=list)
    failed: list[FailedAttempt] = field(default_factory=list)
    refused: list[RefusedReport] = field(default_factory=list)

    def add(self, report: Report) -> None:
        match report:
            case Committed(lease):
                self.committed.append(lease)
            case Returned(lease):
                self.returned.append(lease)
            case FailedAttempt():
                self.failed.append(report)
            case RefusedReport():
                self.refused.append(report)

    def extend(self, others: Reports) -> None:
        self.committed += others.committed
        self.returned += others.returned
        self.failed += others.failed
        self.refused += others.refused

    def __len__(self) -> int:
        return len(self.committed) + len(self.returned) + len(self.failed) + len(self.refused)

    def singly(self) -> Iterable[Reports]:
        """Return each report by itself, for when one of them spoils the group."""
        for lease in self.committed:
            yield Reports(committed=[lease])
        for lease in self.returned:
            yield Reports(returned=[lease])
        for failure in self.failed:
            yield Reports(failed=[failure])
        for refused in self.refused:
            yield Reports(refused=[refused])

    def send(self, store: Store, worker: str) -> Step[Sent]:
        """The step that tells the database."""
        refused = list(self.refused)
        busy: frozenset[Lease] = frozenset()
        if self.returned:
            refused += yield from store.complete(self.returned)
        if self.failed:
            reported = yield from store.fail(self.failed)
            refused += reported.refused
            busy = reported.busy
        # A duplicate of a committed job finalizes it: its record is there, whoever wrote it.
        done = self.committed + [report.lease for report in refused if report.record is not None]
        if done:
            yield from store.finalize(done)
        if refused:
            yield from store.record_refusals(worker, refused)
        return Sent(
            again=Reports(failed=[failure for failure in self.failed if failure.lease in busy]),
            refused=tuple(refused),
        )


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a group of reports."""

    again: Reports
    """Those whose lease another session had locked."""
    refused: tuple[RefusedReport, ...]

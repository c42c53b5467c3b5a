"""What a worker has to tell the database about its attempts, gathered until the next cycle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jobq.protocol.values import Claim, Exchanged, FailedAttempt, Lease, RefusedReport
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
    result: str | None = None
    """What is to be kept of what it returned, as JSON."""


Report = Committed | Returned | FailedAttempt | RefusedReport


@dataclass(slots=True)
class Reports:
    """Reports not yet taken by the database. Each may be sent again: they are fenced by token."""

    committed: list[Lease] = field(default_factory=list)
    returned: list[Lease] = field(default_factory=list)
    results: dict[Lease, str] = field(default_factory=dict)
    """What some of `returned` have to be kept."""
    failed: list[FailedAttempt] = field(default_factory=list)
    refused: list[RefusedReport] = field(default_factory=list)

    def add(self, report: Report) -> None:
        match report:
            case Committed(lease):
                self.committed.append(lease)
            case Returned(lease, result):
                self.returned.append(lease)
                if result is not None:
                    self.results[lease] = result
            case FailedAttempt():
                self.failed.append(report)
            case RefusedReport():
                self.refused.append(report)

    def extend(self, others: Reports) -> None:
        self.committed += others.committed
        self.returned += others.returned
        self.results |= others.results
        self.failed += others.failed
        self.refused += others.refused

    def __len__(self) -> int:
        return len(self.committed) + len(self.returned) + len(self.failed) + len(self.refused)

    @property
    def leases(self) -> list[Lease]:
        """Whose reports they are."""
        failed = [failure.lease for failure in self.failed]
        refused = [report.lease for report in self.refused]
        return [*self.committed, *self.returned, *failed, *refused]

    def singly(self) -> Iterable[Reports]:
        """Return each report by itself, for when one of them spoils the group."""
        for lease in self.committed:
            yield Reports(committed=[lease])
        for lease in self.returned:
            kept = {lease: self.results[lease]} if lease in self.results else {}
            yield Reports(returned=[lease], results=kept)
        for failure in self.failed:
            yield Reports(failed=[failure])
        for refused in self.refused:
            yield Reports(refused=[refused])

    @property
    def is_plain(self) -> bool:
        """Whether an exchange tells it all, if every return finds its lease."""
        return not self.failed and not self.refused

    def exchange(self, store: Store, claim: Claim, *, is_alone: bool = True) -> Step[Exchanged]:
        """The step that hands in what ended well, and claims."""
        exchanged = yield from store.exchange(
            self.returned, self.committed, claim, is_alone=is_alone and not self.results
        )
        recorded = {
            lease.job_id: result
            for lease, result in self.results.items()
            if lease not in exchanged.unrecorded
        }
        if recorded:
            yield from store.record_results(recorded)
        return exchanged

    def explain(self, store: Store, worker: str, unrecorded: Sequence[Lease]) -> Step[Sent]:
        """The step that tells what an exchange does not: failures, refusals, and why returned
        attempts were not recorded. It waits for no lease: see `Store`'s order of locks."""
        refused = [*self.refused, *(yield from store.refusals(unrecorded))]
        busy: frozenset[Lease] = frozenset()
        if self.failed:
            reported = yield from store.fail(self.failed)
            refused += reported.refused
            busy = reported.busy
        if refused:
            yield from store.record_refusals(worker, refused)
        return Sent(
            again=Reports(
                # A duplicate of a committed job finalizes it: its record is there, whoever's.
                committed=[report.lease for report in refused if report.record is not None],
                failed=[failure for failure in self.failed if failure.lease in busy],
            ),
            refused=tuple(refused),
        )


def as_reports(report: Report | Reports) -> Reports:
    """What an attempt or a batch reports, as a group."""
    if isinstance(report, Reports):
        return report
    reports = Reports()
    reports.add(report)
    return reports


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a group of reports."""

    again: Reports = field(default_factory=Reports)
    """What the next exchange has to tell: leases to finalize, and failures whose lease another
    session had locked."""
    refused: tuple[RefusedReport, ...] = ()

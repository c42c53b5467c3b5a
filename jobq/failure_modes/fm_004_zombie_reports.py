"""FM_004: a zombie's late report changes the attempt that took its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import Shop
from jobq.protocol.states import State
from jobq.protocol.values import FailedAttempt, Heartbeat, Lease, RefusedReport, Reported
from jobq.store import PostgresStore, SqliteStore, Store
from jobq.store.sqlite import LEASED_TOKEN
from jobq.store.step import Step

TOKEN_NOW = "SELECT token FROM {schema}.leases WHERE shard = %(shard)s AND job_id = %(job_id)s"


class _ReportsByJobId(Store):
    """What is missing: the token. A report names its job, and is taken for whoever runs it now.

    `UPDATE jobs SET ... WHERE id = $1`, perhaps with `AND state = 'running'`, is how most queues
    begin: it is right for as long as a job has one attempt at a time.
    """

    def complete(self, leases: Sequence[Lease]) -> Step[list[RefusedReport]]:
        return (yield from super().complete((yield from self._leases_now(leases))))

    def fail(self, failures: Sequence[FailedAttempt]) -> Step[Reported]:
        leases = yield from self._leases_now([failure.lease for failure in failures])
        believed = [replace(told, lease=now) for told, now in zip(failures, leases, strict=True)]
        return (yield from super().fail(believed))

    def heartbeat(
        self, worker: str, leases: Sequence[Lease], lease_s: float, about: str | None = None
    ) -> Step[Heartbeat]:
        now = yield from self._leases_now(leases)
        return (yield from super().heartbeat(worker, now, lease_s))

    def _leases_now(self, leases: Sequence[Lease]) -> Step[list[Lease]]:
        found = []
        for lease in leases:
            token = yield from self._token_now(lease.job_id)
            found.append(Lease(lease.job_id, lease.token if token is None else token))
        return found

    def _token_now(self, job_id: int) -> Step[int | None]:
        raise NotImplementedError


class _PostgresReportsByJobId(_ReportsByJobId, PostgresStore):
    def _token_now(self, job_id: int) -> Step[int | None]:
        rows = yield self._statement(TOKEN_NOW, job_id=job_id)
        return rows[0][0] if rows else None


class _SqliteReportsByJobId(_ReportsByJobId, SqliteStore):
    def _token_now(self, job_id: int) -> Step[int | None]:
        rows = yield self._statement(LEASED_TOKEN, job_id=job_id)
        return rows[0][0] if rows else None


def reports_by_job_id(store: Store) -> Store:
    if isinstance(store, PostgresStore):
        return _PostgresReportsByJobId(store.schema, store.shard)
    return _SqliteReportsByJobId(store.shard)


def late_success(shop: Shop, a: Lease) -> bool:
    return bool(shop.complete(a))


def late_failure(shop: Shop, a: Lease) -> bool:
    return bool(shop.fail(a).refused)


def late_heartbeat(shop: Shop, a: Lease) -> bool:
    return a in shop.heartbeat("A", a, lease_s=3600.0).lost


REPORTS: dict[str, Callable[[Shop, Lease], bool]] = {
    "success": late_success,
    "failure": late_failure,
    "heartbeat": late_heartbeat,
}
"""A's last words, each with the answer whether they were refused."""


def play(shop: Shop) -> Finding:
    """Three jobs, one for each thing that A can still say when its lease is B's."""
    facts = {name: play_report(shop, report) for name, report in REPORTS.items()}
    harms = [
        f"a late {name} {what_became_of_b(seen)}"
        for name, seen in facts.items()
        if not seen["is_b_undisturbed"]
    ]
    return Finding(
        is_harmed=bool(harms),
        detail="; ".join(harms) or "all three late reports were refused; B did not notice",
        seen=facts,
    )


def what_became_of_b(seen: dict[str, Any]) -> str:
    if seen["state_while_b_works"] is State.LEASED:
        return "renewed B's lease"
    beside = ", and C runs it beside B" if seen["attempts_at_once"] > 1 else ""
    return f"ended B's lease (the job is {seen['state_while_b_works']}{beside})"


def play_report(shop: Shop, report: Callable[[Shop, Lease], bool]) -> dict[str, Any]:
    """A's lease expires, B gets the job and works on it, and A reports."""
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")
    before = lease_rows(shop, job_id)

    is_refused = report(shop, a)

    after = lease_rows(shop, job_id)
    state = shop.state(job_id)
    shop.promote()
    third = shop.claim("C")
    effect = shop.effect(b, "B")  # B is at work all the time, and now it is done
    effect.charge()
    effect.commit()
    shop.finalize(b)
    return {
        "is_refused": is_refused,
        "is_b_undisturbed": before == after,
        "state_while_b_works": state,
        "attempts_at_once": len(third) + 1,
        "b_is_refused": effect.refusal is not None,
        "final_state": shop.state(job_id),
    }


def lease_rows(shop: Shop, job_id: int) -> list[Any]:
    return shop.sql(
        f"SELECT token, attempt, worker, lease_expires_at FROM jobq.leases WHERE job_id = {job_id}"
    )


def reproduce(shop: Shop) -> Finding:
    """On reports that name a job and not an attempt."""
    shop.weaken(reports_by_job_id)
    return play(shop)


FM = FailureMode(
    id="FM_004",
    title="zombie reports believed",
    invariants=("I4",),
    reproduce=reproduce,
    prevent=play,
)

"""What an attempt reports after its lease was lost changes nothing (I4), and is told so.

Procrastinate, pgqueuer, pg-boss and others take such reports: a job is marked done under its
second worker, or queued for a third. Here every report names its token.
"""

from __future__ import annotations

from typing import Any

import pytest

from jobq.commit import commit_effect_idempotent
from jobq.errors import LeaseLost
from jobq.failure_modes.shop import BOOM, LEASE_S, Shop, charge
from jobq.protocol.states import AttemptEnd, Outcome, Stage, State
from jobq.protocol.values import ClaimedJob, FailedAttempt, Heartbeat, Lease, Record, RefusedReport

# The audit tables may be written by anyone; everything else is the job's.
TABLES = ("jobs", "scheduled", "ready", "leases", "commit_records", "attempts")


def dump(shop: Shop) -> dict[str, list[Any]]:
    return {table: sorted(map(repr, shop.sql(f"SELECT * FROM jobq.{table}"))) for table in TABLES}


def heartbeat(shop: Shop, *leases: Lease) -> Heartbeat:
    return shop.database.run(shop.database.store.heartbeat("A", leases, LEASE_S))


def complete(shop: Shop, *leases: Lease) -> list[RefusedReport]:
    return shop.database.run(shop.database.store.complete(leases))


@pytest.fixture(params=["waiting", "running", "committed", "done", "dead"])
def zombie(request: pytest.FixtureRequest, shop: Shop) -> Lease:
    """A lease that was lost, while the job went on to each of its places."""
    shop.enqueue(max_attempts=2)
    a = shop.claim_one("A")
    shop.recover(a)
    if request.param == "waiting":
        return a
    b = shop.claim_one("B")
    if request.param in ("committed", "done"):
        with commit_effect_idempotent(shop.database, b, shop.driver) as connection:
            charge(connection, b, "B")
    if request.param == "done":
        shop.finalize(b)
    if request.param == "dead":
        shop.fail(b)
    return a


def test_a_late_heartbeat_changes_nothing(shop: Shop, zombie: Lease) -> None:
    before = dump(shop)

    assert heartbeat(shop, zombie) == Heartbeat(frozenset({zombie}), frozenset())

    assert dump(shop) == before


def test_a_late_failure_changes_nothing(shop: Shop, zombie: Lease) -> None:
    before = dump(shop)

    reported = shop.fail(zombie)

    assert [report.lease for report in reported.refused] == [zombie]
    assert dump(shop) == before


def test_a_late_success_changes_nothing(shop: Shop, zombie: Lease) -> None:
    before = dump(shop)

    assert [report.lease for report in complete(shop, zombie)] == [zombie]

    assert dump(shop) == before


def test_a_late_commit_changes_nothing(shop: Shop, zombie: Lease) -> None:
    before, charged = dump(shop), shop.ledger()

    with (
        pytest.raises(BaseException, match="changes nothing"),
        commit_effect_idempotent(shop.database, zombie, shop.driver) as connection,
    ):
        charge(connection, zombie, "A")

    assert dump(shop) == before
    assert shop.ledger() == charged


def test_a_late_return_gives_nothing_back(shop: Shop, zombie: Lease) -> None:
    before = dump(shop)

    shop.database.run(shop.database.store.release([zombie]))

    assert dump(shop) == before


def test_a_late_finalize_of_a_running_job_does_not_end_its_lease(shop: Shop) -> None:
    shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")
    before = dump(shop)

    shop.finalize(a)

    assert dump(shop) == before
    assert shop.job(b.job_id).worker == "B"


def test_a_refusal_names_its_reason(shop: Shop) -> None:
    shop.enqueue(), shop.enqueue()
    lost, committed = (claimed.lease for claimed in shop.claim("A", limit=2))
    shop.recover(lost)
    with commit_effect_idempotent(shop.database, committed, shop.driver) as connection:
        charge(connection, committed, "A")
    zombie = Lease(committed.job_id, committed.token + 1)  # never a lease of this job

    refused = complete(shop, lost, zombie)

    fate = Record(committed.token, Outcome.COMMITTED)
    assert refused == [
        RefusedReport(lost, Stage.COMMIT, None),
        RefusedReport(zombie, Stage.COMMIT, fate),
    ]
    assert [report.reason for report in refused] == ["lease_lost", "already_committed"]


def test_refusals_are_kept_once_each(shop: Shop) -> None:
    shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    report = RefusedReport(a, Stage.COMMIT, None)

    for _ in range(2):
        shop.database.run(shop.database.store.record_refusals("A", [report]))

    kept = shop.sql("SELECT job_id, token, stage, worker, reason FROM jobq.refusals")
    assert [tuple(row) for row in kept] == [(a.job_id, a.token, "commit", "A", "lease_lost")]


def test_a_report_repeated_after_a_lost_answer_is_no_refusal(shop: Shop) -> None:
    """The worker cannot know whether its transaction took place, and sends everything again."""
    shop.enqueue(), shop.enqueue(max_attempts=1)
    done, dead = (claimed.lease for claimed in shop.claim("A", limit=2))
    assert complete(shop, done) == []
    assert shop.fail(dead).refused == ()
    before = dump(shop)

    assert complete(shop, done) == []
    assert shop.fail(dead).refused == ()

    assert dump(shop) == before


def test_a_zombie_beside_its_own_successor_in_a_group_is_refused(shop: Shop) -> None:
    """One worker can have both: it was frozen, lost the job, and claimed it again."""
    shop.enqueue()
    zombie = shop.claim_one("A")
    shop.recover(zombie)
    again = shop.claim_one("A")

    (refused,) = complete(shop, again, zombie)

    assert (refused.lease, refused.reason) == (zombie, "already_committed")


def test_the_failure_of_a_cancelled_attempt_is_refused(shop: Shop) -> None:
    """The record bears the attempt's token, and yet it is not its own."""
    job_id = shop.enqueue()
    lease = shop.claim_one("A")
    shop.cancel(job_id)

    (refused,) = shop.fail(lease).refused

    assert (refused.lease, refused.reason) == (lease, "already_cancelled")


def test_a_group_with_a_zombie_in_it_goes_through_for_the_others(shop: Shop) -> None:
    for _ in range(4):
        shop.enqueue()
    lost, returned, failed, lost_too = (claimed.lease for claimed in shop.claim("A", limit=4))
    shop.expire(lost, lost_too)
    shop.reconcile()
    store = shop.database.store

    assert [report.lease for report in complete(shop, lost, returned)] == [lost]
    failures = [FailedAttempt(one, AttemptEnd.FAILED, BOOM, 0.0) for one in (lost_too, failed)]
    reported = shop.database.run(store.fail(failures))

    assert [report.lease for report in reported.refused] == [lost_too]
    assert shop.state(returned.job_id) is State.DONE
    assert shop.state(failed.job_id) is State.SCHEDULED


def test_a_heartbeat_extends_a_lease(shop: Shop) -> None:
    shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(a)

    assert heartbeat(shop, a) == Heartbeat(frozenset(), frozenset())

    assert shop.reconcile().total == 0, "it is not expired any more"
    assert shop.job(a.job_id).worker == "A"


def test_a_heartbeat_tells_the_lost_from_the_cancelled_and_the_held(shop: Shop) -> None:
    for _ in range(3):
        shop.enqueue()
    held, cancelled, lost = (claimed.lease for claimed in shop.claim("A", limit=3))
    shop.database.run(shop.database.store.cancel(cancelled.job_id))
    shop.recover(lost)

    learned = heartbeat(shop, held, cancelled, lost)

    assert learned == Heartbeat(lost=frozenset({lost}), cancelled=frozenset({cancelled}))


def test_a_heartbeat_goes_on_while_the_effect_is_open(postgres_shop: Shop) -> None:
    """On PostgreSQL: the record's lock on the lease does not stop the heartbeat."""
    shop = postgres_shop
    shop.enqueue()
    a = shop.claim_one("A")
    shop.expire(a)

    with commit_effect_idempotent(shop.database, a, shop.driver) as connection:
        charge(connection, a, "A")
        assert heartbeat(shop, a) == Heartbeat(frozenset(), frozenset())
        assert shop.sql("SELECT 1 FROM jobq.leases WHERE lease_expires_at > clock_timestamp()")
    assert shop.ledger() == ["A"]


def test_a_token_of_another_job_opens_nothing(shop: Shop) -> None:
    shop.enqueue(), shop.enqueue()
    one, other = (claimed.lease for claimed in shop.claim("A", limit=2))
    shop.database.run(shop.database.store.release([other]))
    claimed: ClaimedJob = shop.claim("B")[0]
    assert claimed.lease.token == one.token + 1

    with (
        pytest.raises(LeaseLost),
        commit_effect_idempotent(
            shop.database, Lease(one.job_id, claimed.lease.token), shop.driver
        ),
    ):
        pass

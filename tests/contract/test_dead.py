"""A dead job that is retried is the same job: due once, with its tokens still growing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from jobq import AttemptEnd, DeadJob, Outcome, State
from jobq.failure_modes.shop import BOOM, TASK, Shop
from jobq.failure_modes.transactions import Parties
from jobq.protocol.retention import MIN_AGE_S, Retention, RetentionPolicy, WalkedJob
from jobq.protocol.values import DeadFilter, JobRequest, Lease, UniqueRequest
from jobq.store.dead import dead_jobs, revive, withdraw
from jobq.store.step import Step
from jobq.store.unique import enqueue_unique

ANY = DeadFilter()


def die(shop: Shop, **options: object) -> Lease:
    shop.enqueue(max_attempts=1, **options)  # type: ignore[arg-type]
    queue = options.get("queue", "default")
    (claimed,) = shop.claim("A", queues=[str(queue)])
    shop.fail(claimed.lease)
    return claimed.lease


def listed(shop: Shop, wanted: DeadFilter = ANY, after: int = 0, limit: int = 100) -> list[DeadJob]:
    return shop.database.run(dead_jobs(shop.database.store.portable, wanted, after, limit))


def retry(shop: Shop, *job_ids: int, token: int | None = None) -> list[int]:
    return shop.database.run(revive(shop.database.store.portable, job_ids, token=token))


def test_the_list_says_what_died_of_what(shop: Shop) -> None:
    first, second = die(shop), die(shop, queue="mail")
    shop.enqueue()

    one, other = listed(shop)
    assert (one.id, one.token, one.task, one.queue, one.args) == (
        first.job_id,
        first.token,
        TASK,
        "default",
        "{}",
    )
    assert one.error == BOOM
    assert one.died_at >= one.created_at
    assert [job.id for job in listed(shop, DeadFilter(queue="mail"))] == [second.job_id]
    assert listed(shop, DeadFilter(task="other")) == []
    assert len(listed(shop, DeadFilter(error_type="ValueError"))) == 2
    assert listed(shop, DeadFilter(error_type="KeyError")) == []
    assert [job.id for job in listed(shop, limit=1)] == [one.id]
    assert [job.id for job in listed(shop, after=one.id)] == [other.id]


def test_a_retried_job_has_all_its_attempts_and_its_key(shop: Shop) -> None:
    lease = die(shop)
    key = shop.job(lease.job_id).idempotency_key

    assert retry(shop, lease.job_id) == [lease.job_id]
    assert listed(shop) == []
    shop.promote()
    (again,) = shop.claim("B")
    assert again.lease.token > lease.token
    assert (again.attempt, again.idempotency_key) == (1, key)
    effect = shop.effect(again.lease, "B")
    effect.charge()
    effect.commit()
    shop.finalize(again.lease)
    status = shop.job(lease.job_id)
    assert (status.state, status.attempts) == (State.DONE, 1)
    assert [one.end for one in shop.attempts(lease.job_id)] == [
        AttemptEnd.FAILED,
        AttemptEnd.REVIVED,
    ]
    assert shop.ledger() == ["B"]


def test_a_zombie_of_its_earlier_life_is_refused(shop: Shop) -> None:
    shop.enqueue(max_attempts=1)
    zombie = shop.claim_one("A")
    shop.recover(zombie)
    assert shop.state(zombie.job_id) is State.DEAD
    retry(shop, zombie.job_id)

    late = shop.effect(zombie, "A")
    assert late.refusal is not None
    assert [report.lease for report in shop.complete(zombie)] == [zombie]
    assert [report.lease for report in shop.fail(zombie).refused] == [zombie]
    shop.promote()
    (again,) = shop.claim("B")
    effect = shop.effect(again.lease, "B")
    effect.charge()
    effect.commit()
    assert shop.effect(zombie, "A").refusal is not None
    assert shop.ledger() == ["B"]
    shop.finalize(again.lease)


def test_a_decision_holds_for_the_death_that_was_seen(shop: Shop) -> None:
    lease = die(shop)
    (seen,) = listed(shop)
    assert retry(shop, lease.job_id, token=seen.token) == [lease.job_id]
    assert retry(shop, lease.job_id, token=seen.token) == []
    shop.promote()
    (again,) = shop.claim("B")
    shop.fail(again.lease)
    assert retry(shop, lease.job_id, token=seen.token) == []
    assert [job.token for job in listed(shop)] == [again.lease.token]


@pytest.mark.parametrize("end", ["committed", "cancelled", "waiting"])
def test_other_fates_stand(shop: Shop, end: str) -> None:
    job_id = shop.enqueue()
    if end == "committed":
        shop.complete(shop.claim_one("A"))
    elif end == "cancelled":
        shop.cancel(job_id)
    assert retry(shop, job_id) == []
    assert retry(shop, job_id + 1) == []
    assert shop.state(job_id) is not State.SCHEDULED


def test_of_two_who_retry_at_once_one_does(postgres_shop: Shop, parties: Parties) -> None:
    shop = postgres_shop
    lease = die(shop)
    portable = shop.database.store.portable
    a, b = parties.open(), parties.open()
    assert a.run(revive(portable, [lease.job_id])) == [lease.job_id]
    waiting = b.start(revive(portable, [lease.job_id]))
    parties.wait_until_blocked(b.pid)
    a.commit()
    assert waiting.result() == []
    b.commit()
    assert shop.promote() == 1


def test_a_withdrawn_job_is_cancelled_and_off_the_list(shop: Shop) -> None:
    lease = die(shop)
    portable = shop.database.store.portable
    assert shop.database.run(withdraw(portable, lease.job_id, lease.token))
    assert not shop.database.run(withdraw(portable, lease.job_id, lease.token))
    assert shop.state(lease.job_id) is State.CANCELLED
    assert listed(shop) == []
    assert retry(shop, lease.job_id) == []


def test_a_retried_unique_job_keeps_others_away_again(shop: Shop) -> None:
    unique = UniqueRequest("k", "ended", None, "return")
    request = JobRequest(TASK, "{}", "default", 0, 1, None, 0.0, unique=unique)
    ((job_id, _),) = shop.database.run(enqueue_unique(shop.database.store, [request]))
    shop.fail(shop.claim_one("A"))

    retry(shop, job_id)

    assert shop.database.run(enqueue_unique(shop.database.store, [request])) == [(job_id, False)]


def test_a_pruner_that_looked_before_the_retry_leaves_the_job(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its statement finds the dead record in an older snapshot, and locks the job when the retry is
    done: the job's row has not changed, so nothing is looked at again."""
    lease = die(shop)
    shop.grow_old(lease.job_id, age_s=MIN_AGE_S + 60)
    retry(shop, lease.job_id)

    seen = WalkedJob(lease.job_id, TASK, 2 * MIN_AGE_S, Outcome.DEAD, 2 * MIN_AGE_S)
    store = shop.database.store
    look_now = store._prunable

    def walk(after: int, limit: int) -> Step[list[WalkedJob]]:
        yield from ()
        return [seen]

    def look_before(job_ids: Sequence[int], *, is_locked: bool) -> Step[list[int]]:
        return list(job_ids) if is_locked else (yield from look_now(job_ids, is_locked=False))

    monkeypatch.setattr(store, "_walk", walk)
    monkeypatch.setattr(store, "_prunable", look_before)

    assert shop.prune(RetentionPolicy({}, Retention(dead_s=MIN_AGE_S))).total == 0
    assert shop.state(lease.job_id) is State.SCHEDULED

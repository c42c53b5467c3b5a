"""A job's way in: enqueue, schedule, promote, claim, release. One contract for both backends."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from jobq.database.caller import run_in
from jobq.database.url import backend_of, parse_url
from jobq.failure_modes.shop import LEASE_S, TASK, Shop
from jobq.failure_modes.transactions import WAIT_S, Parties
from jobq.protocol.states import State
from jobq.protocol.values import ClaimedJob, JobRequest
from jobq.store.step import Step

LONG_AGO = datetime(2001, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
FAR_AHEAD = datetime(2101, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)


def ids(claimed: list[ClaimedJob]) -> list[int]:
    return [job.lease.job_id for job in claimed]


# -- order


def test_smaller_priority_is_claimed_first(shop: Shop) -> None:
    late, early, middle = (shop.enqueue(priority=priority) for priority in (7, -3, 0))

    assert ids(shop.claim("A", limit=3)) == [early, middle, late]


def test_within_a_priority_the_job_due_first_is_claimed_first(shop: Shop) -> None:
    second = shop.enqueue(run_at=LONG_AGO + timedelta(milliseconds=1))
    third = shop.enqueue()
    first = shop.enqueue(run_at=LONG_AGO)

    assert ids(shop.claim("A", limit=3)) == [first, second, third]


def test_priority_outranks_due_time(shop: Shop) -> None:
    overdue = shop.enqueue(priority=1, run_at=LONG_AGO)
    urgent = shop.enqueue(priority=0)

    assert ids(shop.claim("A", limit=2)) == [urgent, overdue]


def test_jobs_due_at_the_same_time_are_claimed_in_the_order_of_their_ids(shop: Shop) -> None:
    job_ids = shop.enqueue_many(20)

    assert job_ids == sorted(job_ids)
    assert ids(shop.claim("A", limit=7)) == job_ids[:7], "a limit takes the head of the line"
    assert ids(shop.claim("A", limit=20)) == job_ids[7:]


def test_one_statement_claims_no_more_than_limit_and_leaves_the_rest_alone(shop: Shop) -> None:
    shop.enqueue_many(5)

    assert len(shop.claim("A", limit=2)) == 2
    assert shop.sql("SELECT count(*) FROM jobq.ready")[0][0] == 3
    assert shop.sql("SELECT count(*) FROM jobq.leases")[0][0] == 2


# -- queues


def test_queues_are_served_in_the_order_given(shop: Shop) -> None:
    in_a = shop.enqueue(queue="a", priority=-9)
    in_b = [shop.enqueue(queue="b", priority=priority) for priority in (5, 4)]
    shop.enqueue(queue="c", priority=-99)

    claimed = shop.claim("A", limit=10, queues=["b", "a"])

    assert ids(claimed) == [in_b[1], in_b[0], in_a]
    assert [job.queue for job in claimed] == ["b", "b", "a"]


@pytest.mark.parametrize("limit", range(8))
def test_limit_over_several_queues_is_exact(shop: Shop, limit: int) -> None:
    in_line = [shop.enqueue(queue=queue) for queue in ("a", "a", "b", "c", "c", "c")]

    assert ids(shop.claim("A", limit=limit, queues=["a", "b", "c"])) == in_line[:limit]
    left = shop.sql("SELECT job_id FROM jobq.ready ORDER BY job_id")
    assert [job_id for (job_id,) in left] == in_line[limit:]


def test_ready_queues_are_those_with_jobs_due(shop: Shop) -> None:
    for queue in ("c", "a", "a", "b"):
        shop.enqueue(queue=queue)
    shop.enqueue(queue="later", delay_s=3600)
    shop.claim("A", queues=["b"])

    assert shop.database.run(shop.database.store.ready_queues()) == ["a", "c"]


def test_an_empty_queue_gives_nothing(shop: Shop) -> None:
    assert shop.claim("A", limit=10) == []
    assert shop.database.run(shop.database.store.ready_queues()) == []


# -- tasks


def test_a_task_nobody_knows_is_never_claimed_and_stays_untouched(shop: Shop) -> None:
    unknown = shop.enqueue(task="shop.refund")
    known = shop.enqueue()
    before = shop.sql(f"SELECT * FROM jobq.ready WHERE job_id = {unknown}")

    assert ids(shop.claim("A", limit=10)) == [known], "the job behind it is not held up"
    assert shop.claim("A", limit=10) == []

    assert shop.sql(f"SELECT * FROM jobq.ready WHERE job_id = {unknown}") == before
    assert shop.job(unknown).attempts == 0
    store = shop.database.store
    assert shop.database.run(store.unknown_tasks(queues=["default"], tasks=[TASK])) == [
        "shop.refund"
    ]
    assert ids(shop.claim("A", tasks=["shop.refund"])) == [unknown]


# -- due later


def test_a_delayed_job_is_scheduled_and_not_claimed(shop: Shop) -> None:
    delayed = shop.enqueue(delay_s=3600)
    at_a_time = shop.enqueue(run_at=FAR_AHEAD)

    assert shop.promote() == 0
    assert shop.claim("A", limit=10) == []
    assert shop.state(delayed) is State.SCHEDULED
    assert shop.job(at_a_time).due_at == FAR_AHEAD
    status = shop.job(delayed)
    assert status.due_at is not None
    assert status.due_at - status.created_at == timedelta(hours=1)


def test_a_job_due_in_the_past_is_ready_at_once(shop: Shop) -> None:
    job_id = shop.enqueue(run_at=LONG_AGO)

    assert shop.state(job_id) is State.READY
    assert shop.job(job_id).due_at == LONG_AGO


def test_a_due_job_is_promoted_and_keeps_its_place_in_line(shop: Shop) -> None:
    later = shop.enqueue(delay_s=3600)
    sooner = shop.enqueue(delay_s=1800)
    not_yet = shop.enqueue(delay_s=3600)
    now_due = shop.enqueue()
    make_due(shop, later, LONG_AGO + timedelta(seconds=1))
    make_due(shop, sooner, LONG_AGO)

    assert shop.promote() == 2

    assert ids(shop.claim("A", limit=10)) == [sooner, later, now_due]
    assert shop.state(not_yet) is State.SCHEDULED


def test_promote_moves_the_longest_due_up_to_its_limit(shop: Shop) -> None:
    job_ids = [shop.enqueue(delay_s=3600) for _ in range(5)]
    for position, job_id in enumerate(reversed(job_ids)):
        make_due(shop, job_id, LONG_AGO + timedelta(seconds=position))

    assert shop.promote(limit=2) == 2
    assert {shop.state(job_id) for job_id in job_ids[3:]} == {State.READY}
    assert {shop.state(job_id) for job_id in job_ids[:3]} == {State.SCHEDULED}
    assert shop.promote(limit=100) == 3


def test_a_retry_waits_in_its_backoff(shop: Shop) -> None:
    job_id = shop.enqueue()
    shop.fail(shop.claim_one("A"), retry_delay_s=3600)

    assert shop.promote() == 0
    assert shop.state(job_id) is State.SCHEDULED
    assert shop.job(job_id).attempts == 1


# -- the caller's transaction


def test_a_job_enqueued_in_a_transaction_that_rolls_back_never_existed(shop: Shop) -> None:
    url = parse_url(shop.url)
    engine = create_engine(url, poolclass=NullPool)
    with Session(engine) as session:
        step = shop.database.store.enqueue([request(), request(delay_s=3600)])
        job_ids = run_in(session, step, backend_of(url))
        assert len(set(job_ids)) == 2
        session.rollback()

    for table in ("jobs", "ready", "scheduled"):
        assert shop.sql(f"SELECT * FROM jobq.{table}") == [], table
    assert shop.claim("A", limit=10) == []


def test_a_job_enqueued_in_a_transaction_exists_when_that_commits_and_not_before(
    shop: Shop,
) -> None:
    with open_connection(shop) as connection:
        (job_id,) = run_in(
            connection, shop.database.store.enqueue([request()]), backend_of(parse_url(shop.url))
        )
        assert shop.sql("SELECT * FROM jobq.jobs") == []
        connection.commit()
    connection.close()

    assert ids(shop.claim("A")) == [job_id]


# -- release


def test_release_gives_back_the_same_place_in_line_and_spends_no_attempt(shop: Shop) -> None:
    first, second, third = shop.enqueue_many(3)
    before = shop.sql(f"SELECT priority, due_at FROM jobq.ready WHERE job_id = {second}")
    claimed = shop.claim("A", limit=2)

    shop.release(claimed[1].lease)

    assert shop.sql(f"SELECT priority, due_at FROM jobq.ready WHERE job_id = {second}") == before
    assert shop.job(second).attempts == 0
    assert shop.attempts(second) == [], "an attempt that never began is not history"
    assert shop.state(first) is State.LEASED
    again = shop.claim("B", limit=10)
    assert ids(again) == [second, third]
    assert [job.attempt for job in again] == [1, 1]


def test_a_lease_that_was_lost_cannot_be_released(shop: Shop) -> None:
    job_id = shop.enqueue()
    a = shop.claim_one("A")
    shop.recover(a)
    b = shop.claim_one("B")

    shop.release(a)

    assert shop.state(job_id) is State.LEASED
    assert shop.job(job_id).worker == "B"
    assert shop.heartbeat("B", b).lost == frozenset()


def test_a_job_released_for_ever_never_spends_an_attempt(shop: Shop) -> None:
    job_id = shop.enqueue(max_attempts=1)
    for _ in range(5):
        (claimed,) = shop.claim("A")
        assert claimed.attempt == 1
        shop.release(claimed.lease)

    assert shop.state(job_id) is State.READY


# -- tokens and ids


def test_lease_tokens_of_a_job_only_grow(shop: Shop) -> None:
    shop.enqueue(max_attempts=10)
    tokens = []
    for end in (shop.release, shop.fail, shop.recover, shop.release, shop.recover, shop.fail):
        lease = shop.claim_one("A")
        tokens.append(lease.token)
        end(lease)
        shop.promote()
    tokens.append(shop.claim_one("A").token)

    assert tokens == sorted(set(tokens)), "no token is ever issued twice"
    assert tokens[0] > 0


def test_job_ids_are_never_reused_even_when_all_rows_are_deleted(shop: Shop) -> None:
    last = shop.enqueue_many(3)[-1]
    for table in ("jobs", "ready"):
        shop.sql(f"DELETE FROM jobq.{table}")

    assert shop.enqueue() > last


def test_ids_are_given_in_the_order_of_the_requests(shop: Shop) -> None:
    store = shop.database.store
    requests = [request(args=f'{{"n":{n}}}', delay_s=3600 if n % 3 else 0) for n in range(50)]

    job_ids = shop.database.run(store.enqueue(requests))

    assert [shop.job(job_id).args for job_id in job_ids] == [r.args for r in requests]


# -- fields


@pytest.mark.parametrize(
    "args",
    [
        "{}",
        '{"zero":-0.0,"big":1e308,"small":5e-324,"long":12345678901234567890123}',
        '{"spaced" :  [1,  2] , "again":1,"again":2}',
        '{"name":"Zoë ☃ 😀 \\u00e9\\n\\"quoted\\" \\\\ %s %(x)s :y {schema} jobq."}',
        '{"quote":"\'; DROP TABLE ledger; --"}',
    ],
)
def test_arguments_arrive_as_the_text_they_were(shop: Shop, args: str) -> None:
    job_id = shop.enqueue(args=args)

    (claimed,) = shop.claim("A")

    assert claimed.args == args, "letter by letter: a number rewritten is a number changed"
    assert shop.job(job_id).args == args


def test_every_field_of_a_job_arrives(shop: Shop) -> None:
    job_id = shop.enqueue(
        task="Bücher.versenden", queue="Größe ☃", priority=-32768, max_attempts=32767, args="{}"
    )
    other = shop.enqueue(task="Bücher.versenden", queue="Größe ☃", priority=32767)

    first, second = shop.claim("A", limit=2, queues=["Größe ☃"], tasks=["Bücher.versenden"])

    status = shop.job(job_id)
    assert first == ClaimedJob(
        lease=first.lease,
        queue="Größe ☃",
        task="Bücher.versenden",
        args="{}",
        priority=-32768,
        due_at=first.due_at,
        attempt=1,
        max_attempts=32767,
        idempotency_key=status.idempotency_key,
        created_at=status.created_at,
        acquired_at=first.acquired_at,
    )
    assert first.due_at <= first.acquired_at <= first.due_at + timedelta(minutes=1)
    assert first.lease.job_id == job_id
    assert (status.queue, status.task, status.priority) == (first.queue, first.task, -32768)
    assert (status.max_attempts, status.attempts, status.worker) == (32767, 1, "A")
    assert status.created_at.tzinfo is not None
    assert status.created_at <= first.due_at <= status.created_at + timedelta(seconds=1)
    assert first.due_at.tzinfo is not None
    assert second.idempotency_key == shop.job(other).idempotency_key
    assert second.idempotency_key != first.idempotency_key


def test_a_lease_lasts_as_long_as_was_asked(shop: Shop) -> None:
    job_id = shop.enqueue()
    shop.claim_one("A")

    ((acquired, expires),) = shop.sql(
        f"SELECT acquired_at, lease_expires_at FROM jobq.leases WHERE job_id = {job_id}"
    )
    granted_s = (expires - acquired) / 1000 if shop.is_sqlite else (expires - acquired) / SECOND
    assert granted_s == pytest.approx(LEASE_S, abs=0.01)


def test_the_idempotency_key_is_the_same_in_every_attempt(shop: Shop) -> None:
    shop.enqueue()
    (first,) = shop.claim("A")
    shop.recover(first.lease)
    (second,) = shop.claim("B")

    assert second.attempt == 2
    assert second.idempotency_key == first.idempotency_key


# -- claimers at once


def test_claimers_at_once_get_disjoint_jobs_and_together_all(shop: Shop) -> None:
    rounds, jobs, claimers = 5, 60, 4
    for _ in range(rounds):
        job_ids = shop.enqueue_many(jobs)
        start = threading.Barrier(claimers, timeout=WAIT_S)

        def claim_all(worker: int, start: threading.Barrier = start) -> list[int]:
            store, link = shop.database.store, shop.database.link()
            taken: list[int] = []
            try:
                start.wait()
                while claimed := link.run(
                    store.claim(
                        worker=f"W{worker}",
                        queues=["default"],
                        tasks=[TASK],
                        limit=1 + worker,
                        lease_s=LEASE_S,
                    )
                ):
                    taken += ids(claimed)
            finally:
                link.close()
            return taken

        with ThreadPoolExecutor(claimers) as threads:
            shares = list(threads.map(claim_all, range(claimers)))

        assert sorted(chain.from_iterable(shares)) == job_ids, (
            "each job exactly once, none left out"
        )
        for worker, share in enumerate(shares):
            held = shop.sql(f"SELECT job_id FROM jobq.leases WHERE worker = 'W{worker}'")
            assert set(share) <= {job_id for (job_id,) in held}


def test_a_claim_does_not_wait_for_one_that_holds_its_rows(
    postgres_shop: Shop, parties: Parties
) -> None:
    job_ids = postgres_shop.enqueue_many(6)
    first, second = parties.open(), parties.open()
    store = postgres_shop.database.store

    def claim(worker: str, limit: int) -> list[int]:
        party = first if worker == "A" else second
        return ids(
            party.run(
                store.claim(
                    worker=worker, queues=["default"], tasks=[TASK], limit=limit, lease_s=LEASE_S
                )
            )
        )

    assert claim("A", 2) == job_ids[:2]
    assert claim("B", 2) == job_ids[2:4], "the next ones, at once"
    first.rollback()
    assert claim("B", 10) == [*job_ids[:2], *job_ids[4:]]
    second.commit()

    assert postgres_shop.job(job_ids[0]).worker == "B"


def test_a_claim_locks_only_what_it_takes(postgres_shop: Shop, parties: Parties) -> None:
    """A plan that locked more than LIMIT rows would starve the claims beside it."""
    in_a = [postgres_shop.enqueue(queue="a") for _ in range(3)]
    in_b = [postgres_shop.enqueue(queue="b") for _ in range(3)]
    first, second = parties.open(), parties.open()
    store = postgres_shop.database.store

    def claim(limit: int) -> Step[list[ClaimedJob]]:
        return store.claim(
            worker="A", queues=["a", "b"], tasks=[TASK], limit=limit, lease_s=LEASE_S
        )

    assert ids(first.run(claim(2))) == in_a[:2]
    assert ids(second.run(claim(10))) == [in_a[2], *in_b]
    first.commit()
    second.commit()


def test_promoters_at_once_move_each_job_once(shop: Shop) -> None:
    job_ids = [shop.enqueue(delay_s=3600) for _ in range(40)]
    for job_id in job_ids:
        make_due(shop, job_id, LONG_AGO)
    start = threading.Barrier(4, timeout=WAIT_S)

    def promote_all(_: int) -> int:
        link, total = shop.database.link(), 0
        try:
            start.wait()
            while moved := link.run(shop.database.store.promote(3)):
                total += moved
        finally:
            link.close()
        return total

    with ThreadPoolExecutor(4) as threads:
        moved = list(threads.map(promote_all, range(4)))

    assert sum(moved) == len(job_ids)
    assert sorted(ids(shop.claim("A", limit=100))) == job_ids


SECOND = timedelta(seconds=1)


def request(args: str = "{}", delay_s: float = 0.0) -> JobRequest:
    return JobRequest(TASK, args, "default", 0, 5, None, delay_s)


def make_due(shop: Shop, job_id: int, at: datetime) -> None:
    literal = str(round(at.timestamp() * 1000)) if shop.is_sqlite else f"'{at.isoformat()}'"
    shop.sql(f"UPDATE jobq.scheduled SET run_at = {literal} WHERE job_id = {job_id}")


def open_connection(shop: Shop) -> sqlite3.Connection | psycopg.Connection:
    if shop.is_sqlite:
        return sqlite3.connect(str(shop.database.url.database))
    return psycopg.connect(shop.url)

"""A database in which everything has happened that the dashboard shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from jobq import JobQueue, Limit, Retry, State
from jobq.protocol.states import AttemptEnd
from jobq.protocol.values import AttemptError, FailedAttempt
from tests.worker.conftest import wait_for

BOUND_S = 60.0
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@dataclass(frozen=True)
class Scene:
    app: JobQueue
    done: int
    dead: int
    zombie: int
    """A job whose first worker froze, and whose late report was refused."""
    scheduled: int
    ambiguous: int
    hostile: int


def make_scene(url: str) -> Scene:
    app = JobQueue(url)

    @app.task(name="mail.send", queue="mail")
    def send(to: str, password: str = "") -> str:
        return f"sent to {to}"

    @app.task(name="billing.charge", queue="billing", max_attempts=2, retry=Retry(0.01, 0.01))
    def charge(order_id: int) -> None:
        raise ValueError(f"card of {order_id} was declined {HOSTILE}")

    @app.task(name="reports.render", queue="reports", limits=[Limit("reports", concurrency=1)])
    def render(pages: int) -> None: ...

    @app.task(name=f"task {HOSTILE}", queue="odd")
    def odd(text: str) -> None: ...

    @app.task(name="pay.ask", queue="pay", outside_effects="ask", max_attempts=3)
    def pay(order_id: int) -> None: ...

    app.schedule("nightly", "30 2 * * *", render.request(pages=1), timezone="Europe/Berlin")

    zombie = send.enqueue(to="zombie@example.org")
    store = app.database.store
    claim = store.claim(
        worker="web-1:4711:frozen", queues=["mail"], tasks=["mail.send"], limit=1, lease_s=0.2
    )
    (claimed,) = app.database.run(claim)
    done = send.enqueue(to="ada@example.org", password="hunter2")
    dead = charge.enqueue(order_id=7)
    asked = pay.enqueue(order_id=9)
    (asked_claim,) = app.database.run(
        store.claim(worker="web-2:1:b", queues=["pay"], tasks=["pay.ask"], limit=1, lease_s=60)
    )
    _park(app, asked_claim.lease)
    more = app.enqueue_many(send.request(to=f"{n}@example.org") for n in range(30))
    with app.worker(queues=["mail", "billing", "none"], poll_s=0.02, reconcile_s=0.05):
        for job in (zombie, done, dead, *more):
            job.wait(BOUND_S)
        wait_for(
            lambda: all(one.status().state is State.DONE for one in (zombie, done, *more)),
            "the jobs to be finalized",
        )
        wait_for(lambda: bool(app.schedules.list()), "the schedule to be declared")
    refused = app.database.run(store.complete([claimed.lease]))
    app.database.run(store.record_refusals("web-1:4711:frozen", refused))
    scheduled = send.using(delay=3_600).enqueue(to="later@example.org")
    hostile = odd.enqueue(text=HOSTILE)
    render.enqueue(pages=3)
    send.using(after=scheduled).enqueue(to="follows@example.org")
    with app.acting_as("ada"):
        app.queues.pause("reports", until=datetime(2100, 1, 1, tzinfo=UTC))
    app.database.run(
        store.claim(worker="web-3:8:c", queues=["odd"], tasks=[odd.name], limit=1, lease_s=3_600)
    )
    return Scene(app, done.id, dead.id, zombie.id, scheduled.id, asked.id, hostile.id)


def _park(app: JobQueue, lease: object) -> None:
    """Its handler begins, and its worker is interrupted."""
    from jobq.protocol.outside import OutsideEffects
    from jobq.store.steps import begin

    store = app.database.store
    app.database.run(begin(store.portable, lease, OutsideEffects.ASK))  # type: ignore[arg-type]
    error = AttemptError("jobq.WorkerStopped", "the worker was stopped", "")
    app.database.run(
        store.fail([FailedAttempt(lease, AttemptEnd.INTERRUPTED, error, 0.0)])  # type: ignore[arg-type]
    )

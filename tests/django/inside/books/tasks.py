"""Tasks that write, fail, swallow, and wait at gates that tests open."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from django.db import DatabaseError, IntegrityError, connection, transaction
from django.tasks import task

from tests.django.inside.books.models import Account, Entry

BOUND_S = 180.0


class Gate:
    """Where the first who comes waits until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def pass_through(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            assert self.opened.wait(BOUND_S), "waited for the test to open the gate"


gates: dict[str, Gate] = {}
heard: list[str] = []


@task(queue_name="billing")
def charge(note: str) -> int:
    return int(Entry.objects.create(note=note).pk)


@task(backend="elsewhere")
def charge_elsewhere(note: str) -> None:
    Entry.objects.using("other").create(note=note)


@task(takes_context=True)
def tell(context: Any, what: list[int]) -> dict[str, Any]:
    Entry.objects.create(note=context.task_result.id)
    return {"attempt": context.attempt, "what": what, "key": str(context.job.idempotency_key)}


@task
async def charge_async(note: str, *, fails: bool = False) -> str:
    await Entry.objects.acreate(note=note)
    if fails:
        raise ValueError(note)
    return str((await Entry.objects.aget(note=note)).note)


@task
def fail(note: str) -> None:
    transaction.on_commit(lambda: heard.append(note))
    Entry.objects.create(note=note)
    raise ValueError(f"no {note}")


@task
def once(note: str) -> None:
    raise LookupError(note)


@task
def swallow(name: str) -> None:
    """The name is taken; what follows the error is not asked of the database any more."""
    Entry.objects.create(note=name)
    with suppress(IntegrityError):
        Account.objects.create(name=name)


@task
def swallow_driver_error() -> None:
    Entry.objects.create(note="before")
    with suppress(DatabaseError), connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")


@task
def confine(name: str) -> None:
    with suppress(IntegrityError), transaction.atomic():
        Entry.objects.create(note="in the savepoint")
        Account.objects.create(name=name)
    Entry.objects.create(note="beside it")


@task
def call_back(note: str, *, fails: bool = False) -> None:
    def after() -> None:
        assert not connection.in_atomic_block
        heard.append(f"{note}: {Entry.objects.filter(note=note).count()}")
        if fails:
            raise ValueError(note)

    transaction.on_commit(after)
    Entry.objects.create(note=note)
    heard.append("before")


@task
def be_durable() -> None:
    with transaction.atomic(durable=True):
        Entry.objects.create(note="durable")


@task
def return_an_object() -> object:
    Entry.objects.create(note="object")
    return object()


@task
def wait_inside(gate: str) -> None:
    """Says which of the server's processes it is served by. On PostgreSQL."""
    heard.append(str(connection.connection.info.backend_pid))
    gates[gate].pass_through()
    Entry.objects.create(note=gate)


@task(takes_context=True)
def charge_late(context: Any, gate: str) -> None:
    gates[gate].pass_through()
    try:
        with context.commit():
            Entry.objects.create(note=gate)
    finally:
        heard.append("tried")


@task
def charge_naively(gate: str) -> None:
    gates[gate].pass_through()
    with transaction.atomic():
        Entry.objects.create(note=gate)
    heard.append("tried")

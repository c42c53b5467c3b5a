"""FM_032: a job without its order, or an order without its job."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Generator
from typing import Any

import psycopg

from jobq.client import JobQueue
from jobq.database.url import conninfo
from jobq.failure_modes.catalogue import FailureMode, Finding
from jobq.failure_modes.shop import TASK, Shop
from jobq.task import Task

ORDERS = "CREATE TABLE orders (id bigint PRIMARY KEY)"
UNPAID = """
SELECT id FROM orders WHERE id NOT IN (SELECT order_id FROM payments) ORDER BY id
"""
PAYMENTS = "CREATE TABLE payments (order_id bigint, job_id bigint)"


class Checkout:
    """One request of the shop's web application: it takes an order and asks for its payment."""

    def __init__(self, shop: Shop, task: Task[..., Any], order_id: int) -> None:
        self._shop = shop
        self._task = task
        self.order_id = order_id
        self._connection: Any = None

    def take_order(self) -> None:
        """Begin the business transaction, with the order in it."""
        if self._shop.is_sqlite:
            path = str(self._shop.database.url.database)
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.execute("BEGIN IMMEDIATE")
        else:
            self._connection = psycopg.connect(conninfo(self._shop.database.url))
        self._connection.execute(f"INSERT INTO orders VALUES ({self.order_id})")

    def enqueue(self) -> None:
        """Enqueue the payment in a transaction of its own, as into a broker."""
        self._task.enqueue(self.order_id)

    def enqueue_in(self) -> None:
        """Enqueue the payment in the transaction of its order."""
        self._task.enqueue_in(self._connection, self.order_id)

    def commit(self) -> None:
        self._connection.commit()

    @property
    def is_writing(self) -> bool:
        """Whether the file's one write lock is taken."""
        return self._shop.is_sqlite and getattr(self._connection, "in_transaction", False)

    def die(self) -> None:
        """The process is killed where it stands, and its connection closes; so it is, too, when
        the transaction fails and is rolled back."""
        if self._connection is not None:
            self._connection.close()


Way = Callable[[Checkout], Generator[None, None, None]]
"""What an application does for an order. At each `yield` a worker looks, and it may be killed."""


def job_first(checkout: Checkout) -> Generator[None, None, None]:
    checkout.enqueue()
    yield
    checkout.take_order()
    yield
    checkout.commit()


def order_first(checkout: Checkout) -> Generator[None, None, None]:
    """As a hook after the commit does it: the job is there when it is needed, or not at all."""
    checkout.take_order()
    yield
    checkout.commit()
    yield
    checkout.enqueue()


def together(checkout: Checkout) -> Generator[None, None, None]:
    checkout.take_order()
    yield
    checkout.enqueue_in()
    yield
    checkout.commit()


STEPS = 3
"""Of each way; it is killed before the first, the second and the third, and not at all."""


def play(shop: Shop, *ways: Way) -> Finding:
    """Orders are taken in each way, killed at each step, with a worker that is quick."""
    for table in (ORDERS, PAYMENTS):
        shop.sql(table)
    app = JobQueue(shop.url, schema=shop.schema)

    @app.task(name=TASK)
    def pay(order_id: int) -> None:
        """What the shop's own worker does is in `work`."""

    names: dict[int, str] = {}
    for way in ways:
        for steps in range(STEPS + 1):
            names[len(names) + 1] = f"{way.__name__}, {steps} of {STEPS} steps"
            go(shop, Checkout(shop, pay, len(names)), way, steps)
    app.close()
    work(shop)

    orders = {order_id for (order_id,) in shop.sql("SELECT id FROM orders")}
    jobs = {_order_of(args) for (args,) in shop.sql("SELECT args FROM jobq.jobs")}
    phantom = sorted(jobs - orders)
    unpaid = [order_id for (order_id,) in shop.sql(UNPAID)]
    return Finding(
        is_harmed=bool(phantom or unpaid),
        detail=f"{len(phantom)} jobs without their order, {len(unpaid)} orders never paid, of "
        f"{len(names)} checkouts",
        seen={
            "phantom": [names[order_id] for order_id in phantom],
            "unpaid": [names[order_id] for order_id in unpaid],
            "orders": len(orders),
        },
    )


def go(shop: Shop, checkout: Checkout, way: Way, steps: int) -> None:
    """Take so many steps of the way, and a look of the worker after each; then die."""
    going = way(checkout)
    for _ in range(steps):
        next(going, None)
        if not checkout.is_writing:
            work(shop)
    checkout.die()


def work(shop: Shop) -> None:
    """Pay for what is ordered. A job whose order is not there was for one that was withdrawn."""
    for claimed in shop.claim("A", 10):
        order_id = _order_of(claimed.args)
        effect = shop.effect(claimed.lease, "A")
        if shop.sql(f"SELECT id FROM orders WHERE id = {order_id}"):
            effect.connection.execute(
                f"INSERT INTO payments VALUES ({order_id}, {claimed.lease.job_id})"
            )
        effect.commit()
        shop.finalize(claimed.lease)


def _order_of(args: Any) -> int:
    told = json.loads(args) if isinstance(args, str) else args
    return int(told["order_id"])


def reproduce(shop: Shop) -> Finding:
    """With jobs enqueued in a transaction of their own, before the order's or after it."""
    return play(shop, job_first, order_first)


def prevent(shop: Shop) -> Finding:
    """With `enqueue_in`."""
    return play(shop, together)


FM = FailureMode(
    id="FM_032",
    title="a job without its order, or an order without its job",
    invariants=("I6",),
    reproduce=reproduce,
    prevent=prevent,
)

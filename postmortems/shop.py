"""The company of the reports: it takes orders, and charges for them in jobs.

`charges` has no unique key on the order. That is the point: nothing but the queue stands between
a customer and a second charge.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

TABLES = """
CREATE TABLE orders (
    id bigint PRIMARY KEY,
    customer_id int NOT NULL,
    cents bigint NOT NULL
);
CREATE TABLE charges (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id bigint NOT NULL,
    cents bigint NOT NULL,
    claimed_at timestamptz NOT NULL,
    charged_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    charged_by int NOT NULL
);
CREATE INDEX ON charges (order_id);
"""
ORDER = "INSERT INTO orders (id, customer_id, cents) VALUES (%s, %s, %s)"
CHARGE = "INSERT INTO charges (order_id, cents, claimed_at, charged_by) VALUES (%s, %s, %s, %s)"

# Finance's question, which knows orders and charges and nothing of jobs.
RECONCILIATION = """
SELECT orders.id, orders.customer_id, count(*) AS charges, sum(charges.cents) - orders.cents AS over
FROM orders JOIN charges ON charges.order_id = orders.id
GROUP BY orders.id HAVING count(*) > 1 ORDER BY orders.id
"""
NOT_CHARGED = """
SELECT count(*) FROM orders WHERE NOT EXISTS (SELECT FROM charges WHERE order_id = orders.id)
"""


@dataclass(frozen=True, slots=True)
class Order:
    id: int
    customer_id: int
    cents: int


def make_orders(count: int, customers: int, seed: int) -> list[Order]:
    draw = random.Random(seed)  # noqa: S311 - prices, not secrets
    return [
        Order(n, draw.randrange(customers), draw.randrange(500, 20_000))
        for n in range(1, count + 1)
    ]

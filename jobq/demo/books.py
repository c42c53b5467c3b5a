"""What was ordered beside what was charged."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, Table, and_, func, insert, not_, select

from jobq.demo.shop import accounts, ledger, metadata

OPENING_BALANCE_CENTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Order:
    account_id: int
    cents: int


@dataclass(frozen=True, slots=True)
class Report:
    """The demo's result. `duplicated` and `lost` are what must be 0."""

    jobs: int
    attempts: int
    refused: int
    """Zombies: attempts that came back too late and changed nothing."""
    healed: int
    """Committed by a worker that died before it could say so; finalized, not run again."""
    applied: int
    """Charges in the ledger."""
    duplicated: int
    """Charges in the ledger beyond one for each job."""
    lost: int
    """Jobs without their charge."""
    wrong_balances: int
    """Accounts whose balance is not what the orders make it."""

    @property
    def is_exact(self) -> bool:
        return self.duplicated == self.lost == self.wrong_balances == 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def make_orders(jobs: int, account_count: int, seed: int) -> list[Order]:
    draw = random.Random(seed)  # noqa: S311 - orders, not secrets
    return [
        Order(account_id=draw.randrange(account_count), cents=draw.randrange(1, 10_000))
        for _ in range(jobs)
    ]


def open_accounts(connection: Connection, account_count: int) -> None:
    """Make the demo's own tables afresh."""
    metadata.drop_all(connection)
    metadata.create_all(connection)
    connection.execute(
        insert(accounts),
        [{"id": n, "balance_cents": OPENING_BALANCE_CENTS} for n in range(account_count)],
    )


def audit(
    connection: Connection, orders: Mapping[int, Order], tables: Mapping[str, Table]
) -> Report:
    """Compare the ledger and the balances with the orders, job by job."""
    charged = connection.execute(
        select(ledger.c.job_id, ledger.c.account_id, ledger.c.cents).where(
            ledger.c.job_id.between(min(orders), max(orders))
        )
    ).all()
    right = Counter(
        row.job_id for row in charged if orders.get(row.job_id) == Order(row.account_id, row.cents)
    )
    expected = Counter(dict.fromkeys(range(_count(connection, accounts)), OPENING_BALANCE_CENTS))
    for order in orders.values():
        expected[order.account_id] -= order.cents
    balances = {row.id: row.balance_cents for row in connection.execute(select(accounts))}
    return Report(
        jobs=len(orders),
        attempts=_attempts(connection, tables, list(orders)),
        refused=_refused(connection, tables["refusals"], list(orders)),
        healed=_healed(connection, tables["attempts"], list(orders)),
        applied=len(charged),
        duplicated=len(charged) - len({row.job_id for row in charged}),
        lost=len(orders.keys() - right.keys()),
        wrong_balances=sum(balances[n] != expected[n] for n in balances),
    )


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


def _attempts(connection: Connection, tables: Mapping[str, Table], job_ids: Sequence[int]) -> int:
    """Ended attempts, and the commits that their own workers finalized, which leave no other
    trace in the history."""
    attempts, records = tables["attempts"], tables["commit_records"]
    first, last = min(job_ids), max(job_ids)
    ended = select(func.count()).where(attempts.c.job_id.between(first, last))
    in_history = (
        select(attempts.c.job_id)
        .where(and_(attempts.c.job_id == records.c.job_id, attempts.c.token == records.c.token))
        .exists()
    )
    quiet = select(func.count()).where(
        records.c.job_id.between(first, last),
        records.c.outcome == "committed",
        not_(in_history),
    )
    return connection.execute(ended).scalar_one() + connection.execute(quiet).scalar_one()


def _refused(connection: Connection, refusals: Table, job_ids: Sequence[int]) -> int:
    """Attempts, not refusals: a heartbeat and a commit of one zombie may both be refused."""
    zombies = (
        select(refusals.c.job_id, refusals.c.token)
        .distinct()
        .where(refusals.c.job_id.between(min(job_ids), max(job_ids)))
        .subquery()
    )
    return connection.execute(select(func.count()).select_from(zombies)).scalar_one()


def _healed(connection: Connection, attempts: Table, job_ids: Sequence[int]) -> int:
    return connection.execute(
        select(func.count()).where(
            attempts.c.outcome == "healed",
            attempts.c.job_id.between(min(job_ids), max(job_ids)),
        )
    ).scalar_one()

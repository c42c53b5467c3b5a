"""The shop: its tables, its tasks, and the queue in the same database."""

from __future__ import annotations

import os

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from jobq import JobQueue

app = JobQueue()
engine = create_engine(os.environ["JOBQ_DATABASE_URL"])
sessions = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    cents: Mapped[int]
    is_paid: Mapped[bool] = mapped_column(default=False)


class Charge(Base):
    """Nothing in it keeps an order from being charged twice. jobq does."""

    __tablename__ = "charges"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]
    cents: Mapped[int]


@app.task(queue="billing")
def charge(db: Session, order_id: int) -> int:
    """Charge an order. The effect and the job's commit record are one transaction."""
    order = db.get_one(Order, order_id)
    db.add(Charge(order_id=order_id, cents=order.cents))
    order.is_paid = True
    return order.cents

"""A FastAPI service with its worker and the dashboard inside.

    uvicorn examples.fastapi_shop.service:service

The worker may as well be processes of their own (`jobq worker examples.fastapi_shop.shop:app`);
then leave out the lifespan.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy.orm import Session

from examples.fastapi_shop.shop import Base, Order, app, charge, engine, sessions
from jobq import JobNotFound
from jobq.dashboard import create_dashboard


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """The worker lives as long as the service: it is drained when uvicorn stops."""
    Base.metadata.create_all(engine)
    async with app.worker(concurrency=4):
        yield
    await app.aclose()


service = FastAPI(lifespan=lifespan)
service.mount("/ops/jobs", create_dashboard(app, token=os.environ.get("DASHBOARD_TOKEN")))


def session() -> Iterator[Session]:
    """One transaction for each request: committed when it went well, else rolled back."""
    with sessions.begin() as db:
        yield db


class NewOrder(BaseModel):
    customer: str
    cents: int


class Accepted(BaseModel):
    order_id: int
    job_id: int


class JobState(BaseModel):
    state: str
    result: str | None


# "function": the transaction is committed before the answer is sent, not after it.
@service.post("/orders", status_code=202)
def place_order(
    new: NewOrder, db: Annotated[Session, Depends(session, scope="function")]
) -> Accepted:
    """The order and its job exist together, or neither does."""
    order = Order(customer=new.customer, cents=new.cents)
    db.add(order)
    db.flush()
    job = charge.enqueue_in(db, order_id=order.id)
    if new.cents <= 0:
        raise HTTPException(422, "an order costs something")  # and nothing was enqueued
    return Accepted(order_id=order.id, job_id=job.id)


@service.get("/jobs/{job_id}")
def job_state(job_id: int) -> JobState:
    try:
        status = app.status(job_id)
    except JobNotFound as error:
        raise HTTPException(404, str(error)) from error
    return JobState(state=status.state, result=status.result)

"""A Flask service that enqueues in its requests' transactions; its jobs run in `jobq worker`.

flask --app examples.flask_shop.service run
jobq worker examples.flask_shop.service:app
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, abort, request
from sqlalchemy import create_engine, event
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    UOWTransaction,
    mapped_column,
    sessionmaker,
)

from jobq import JobNotFound, JobQueue

app = JobQueue()
engine = create_engine(os.environ["JOBQ_DATABASE_URL"])
sessions = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Signup(Base):
    __tablename__ = "signups"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


class Welcome(Base):
    __tablename__ = "welcomes"

    id: Mapped[int] = mapped_column(primary_key=True)
    signup_id: Mapped[int]


@app.task
def welcome(db: Session, signup_id: int) -> None:
    db.add(Welcome(signup_id=signup_id))


@event.listens_for(sessions, "after_flush")
def enqueue_for_new_rows(session: Session, _: UOWTransaction) -> None:
    """Whoever adds a signup gets its job, in the same transaction; the ids are there by now."""
    for row in session.new:
        if isinstance(row, Signup):
            welcome.enqueue_in(session, signup_id=row.id)


def create_app() -> Flask:
    service = Flask(__name__)
    Base.metadata.create_all(engine)

    @service.post("/signups")
    def sign_up() -> tuple[dict[str, Any], int]:
        email = str((request.get_json() or {}).get("email", ""))
        with sessions.begin() as db:
            row = Signup(email=email)
            db.add(row)
            db.flush()
            if "@" not in email:
                abort(422)  # raises: neither the row nor its job is committed
            return {"id": row.id}, 202

    @service.get("/jobs/<int:job_id>")
    def job(job_id: int) -> dict[str, Any]:
        try:
            return {"state": app.status(job_id).state}
        except JobNotFound as error:
            abort(404, str(error))

    return service

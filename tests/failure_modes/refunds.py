"""The code of tomorrow, for worker processes to import: it has a task that today's has not."""

from __future__ import annotations

from jobq import JobQueue

app = JobQueue()


@app.task(name="shop.refund", max_attempts=3)
def refund(order_id: int) -> None:
    """Only to be done."""
